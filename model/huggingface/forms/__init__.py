"""Everything in which models differ, and families too: a row for each, in one file for each part of a model."""
