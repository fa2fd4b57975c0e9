"""Looking after a data set: facts about its files, duplicates, leakage, checks, repair and expansion."""
