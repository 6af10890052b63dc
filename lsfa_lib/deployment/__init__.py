"""A fitted detector on new scans: verdicts, maps and places in the frame of the input."""
