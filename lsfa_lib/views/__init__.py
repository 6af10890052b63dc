"""What notebooks look at: numbers and scans as plotly figures, tables and sentences."""
