"""The live explorer: what it shows of a scan, why a patch scores high, and its panel."""
