"""Who is waiting for whom: a rank that hangs, or is cut off, is noticed, named, and the run ended."""
