"""Published formulas as advice about lengths, bases and windows: pure functions in numpy, a file for each source."""
