"""Annotation files, read into samples and written from them, in every format of `ANNOTATION_FORMATS`."""

from hccvision.annotations import masks, voc
from hccvision.annotations.coco import COCOFormat, read_coco, write_coco
from hccvision.annotations.cvat import CVATFormat
from hccvision.annotations.formats import (
    AnnotationFormat,
    DatasetWriter,
    ImageWriter,
    dataset_writer,
    detect,
    image_writer,
    read_folder,
)
from hccvision.annotations.image_folder import ClassFolders, read_image_folder
from hccvision.annotations.label_studio import LabelStudioFormat
from hccvision.annotations.labelme import LabelmeFormat
from hccvision.annotations.mask_folder import MaskFormat, read_mask_folder
from hccvision.annotations.patients import PatientRule
from hccvision.annotations.predictions import read_predictions
from hccvision.annotations.problems import usable
from hccvision.annotations.via import VIAFormat
from hccvision.annotations.voc_folder import VOCFormat, read_voc_folder
from hccvision.annotations.writing import write_copies, write_folder
from hccvision.annotations.yolo import YOLOFormat, read_yolo_folder, write_yolo_folder

__all__ = [
    "AnnotationFormat", "COCOFormat", "CVATFormat", "ClassFolders", "DatasetWriter", "ImageWriter", "LabelStudioFormat",
    "LabelmeFormat", "MaskFormat", "PatientRule", "VIAFormat", "VOCFormat", "YOLOFormat", "dataset_writer", "detect",
    "image_writer", "masks", "read_coco", "read_folder", "read_image_folder", "read_mask_folder", "read_predictions",
    "read_voc_folder", "read_yolo_folder", "usable", "voc", "write_coco", "write_copies", "write_folder",
    "write_yolo_folder",
]  # fmt: skip
