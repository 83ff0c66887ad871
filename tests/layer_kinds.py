"""Layers of one window as a kind, for tests of attention that build no model."""


def kind_of(window: int | None) -> str:
    """A name for the kind of layer with this window, None for full layers."""
    return "full" if window is None else "window"
