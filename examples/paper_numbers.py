"""Check the printed numbers of Mizouri 2026 (Medinformatics 3(1) 46-55): Tables 4, 5 and 6, and the test set's size.

python examples/paper_numbers.py
"""

import hccvision as hv
from hccvision.metrics.published import possible_readings
from hccvision.metrics.published_logs import check_losses, check_test_size

TABLE_4 = {"tp": 173, "fn": 11, "fp": 3, "tn": 179}
TABLE_5 = {"accuracy": 96, "sensitivity": 94, "specificity": 98, "precision": 98, "f1": 98}  # percent
TABLE_6 = """36 3.2228 1.1355 2.8056
37 2.9965 .9990 2.8056
38 2.9961 .9990 2.8349
39 3.0714 1.0289 2.1266
40 1.8877 .0612 2.1266
41 2.5906 1.1291 2.0662
42 2.9436 .9478 1.9958
43 2.9542 .9478 1.9958
44 3.0776 1.1097 2.2579
45 3.0655 .9897 2.8668
46 2.9629 .9629 1.9598
47 2.8288 .9496 1.9733
48 2.9292 .9496 1.9733
49 2.9326 .9724 1.9597"""  # epoch, validation loss, regression, classification
TEST, ORIGINALS, SHARE = 366, 334, 0.2


def main() -> None:
    print("Table 5, from the confusion matrix of Table 4:")
    print(hv.check_report(TABLE_4, TABLE_5))
    readings = possible_readings(TABLE_4, TABLE_5)
    print(f"readings under which Table 5 can follow from Table 4: {', '.join(readings) or 'none'}")

    epochs, totals, regression, classification = zip(*(line.split() for line in TABLE_6.splitlines()), strict=True)
    faults = check_losses(totals, {"regression": regression, "classification": classification}, rows=epochs)
    print(f"\nTable 6: {len(faults)} of {len(epochs)} rows don't add up:")
    for epoch, fault in faults.items():
        print(f"  epoch {epoch}: {fault}")

    print(f"\nTest set: {check_test_size(TEST, ORIGINALS, share=SHARE)}")


if __name__ == "__main__":
    main()
