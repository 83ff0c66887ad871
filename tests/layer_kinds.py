"""Layers of one reach as a kind, for tests of attention that build no model; reaches drawn at random."""

from hypothesis import strategies as st

from model.reach import Reach


def kind_of(reach: Reach) -> str:
    """A name for the kind of layer with this reach: layers with a window have a core of their own."""
    return "full" if reach.window is None else "window"


def reaches(most: int) -> st.SearchStrategy[Reach]:
    """The whole document, a window, attention chunks, or both, of up to `most` tokens."""
    limit = st.integers(1, most)
    return st.builds(Reach, st.none() | limit, st.none() | limit)
