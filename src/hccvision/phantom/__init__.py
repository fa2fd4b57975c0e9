"""Synthetic contrast-enhanced liver MR: patients, lesions and benign look-alikes, drawn from a seed.

Examples and tests run on it offline. It has the shape of the real problem (few patients, small lesions, look-alikes,
two scanners) and no clinical value.

A slice is made in these steps: an atlas of outlines at a few heights is bent by smooth waves, different for each
patient, and painted as a map of tissues; tissues become the grey levels of the patient's contrast phase; lesions are
blended in; coil shading, a breathing ghost, truncation of k-space and noise turn it into the image of a scanner.

Lengths are in mm: ``x`` to the right of the image (the patient's left), ``y`` down (towards the back), ``z`` up
(towards the head); the origin is the centre of the body at the height of the liver's hilum.

The documentation page "The phantom" shows it beside a real slice, and compares its contrast and sizes with measured
ones.

Source: the grey levels are those of fat-suppressed T1-weighted gradient echo after gadolinium, set by eye on the slice
that ships with pydicom (``examples_overlay.dcm``): spoiled, TR 5.5 ms, TE 2.8 ms, flip angle 10°, 1.5 T; their order is
that of the relaxation times in de Bazelaire et al., Radiology 230, 2004, and of the agent's concentration. The height
of the liver follows Kratzer et al., Journal of Ultrasound in Medicine 22, 2003; the length of the kidneys Emamian et
al., American Journal of Roentgenology 160, 1993; the width of the portal vein Weinreb et al., ibid. 139, 1982. The
lesions follow CT/MRI LI-RADS v2018 (American College of Radiology): nonrim arterial phase hyperenhancement, washout,
enhancing capsule, mosaic architecture. The noise is the magnitude of complex Gaussian noise, hence Rician
(Gudbjartsson and Patz, Magnetic Resonance in Medicine 34, 1995).
"""

from hccvision.phantom.dataset import write_dataset
from hccvision.phantom.drawing import LEVELS, draw_patient
from hccvision.phantom.lesions import SMALLEST_MM
from hccvision.phantom.patients import LESION, Lesion, Patient
from hccvision.phantom.rendering import Slice, render
from hccvision.phantom.scanners import SCANNERS, Scanner
from hccvision.phantom.tissues import PHASES
from hccvision.phantom.waves import Points

__all__ = [
    "LESION", "LEVELS", "PHASES", "SCANNERS", "SMALLEST_MM", "Lesion", "Patient", "Points", "Scanner", "Slice",
    "draw_patient", "render", "write_dataset",
]  # fmt: skip
