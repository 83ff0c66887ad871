"""The page stands alone, is small, and carries the drawing library as its makers published it."""

import base64
import gzip
import hashlib
import re

import pytest

from tests.unit.made_run import (
    STAGES,
    Page,
    check_figures,
    made_evaluations,
    made_steps,
    page_of,
    write_run,
)
from train.report.page import HERE, PLOTLY_JS, PLOTLY_JS_SHA256, PLOTLY_JS_VERSION


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    steps = made_steps()
    folder = tmp_path_factory.mktemp("runs") / "three-stages"
    return page_of(write_run(folder, steps, made_evaluations(steps)))


def test_the_page_stands_alone(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "srcset", "action"} & set(attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")  # into the page itself
    for word in ("://", "@import", "url("):
        assert word not in page.text
    policy = [row["content"] or "" for tag, row in page.tags if row.get("http-equiv")]
    assert policy[0].startswith("default-src 'none'")  # the browser itself refuses any request


def test_the_page_is_below_a_megabyte_and_a_half(page: Page) -> None:
    assert len(page.text.encode()) < 1_500_000


def test_the_library_is_the_published_file_with_its_licence(page: Page) -> None:
    (embedded,) = re.findall(r'id="plotly">([^<]*)</script>', page.text)
    library = gzip.decompress(base64.b64decode(embedded))
    assert gzip.decompress(PLOTLY_JS.read_bytes()) == library
    assert hashlib.sha256(library).hexdigest() == PLOTLY_JS_SHA256
    assert f"plotly.js (cartesian - minified) v{PLOTLY_JS_VERSION}".encode() in library[:200]
    source = (PLOTLY_JS.parent / "SOURCE.md").read_text()
    assert PLOTLY_JS_SHA256 in source
    assert source.count(PLOTLY_JS_VERSION) >= 2
    assert "MIT License" in (PLOTLY_JS.parent / "LICENSE").read_text()


def test_figures_are_of_kinds_that_the_library_draws_in_colours_of_the_style_sheet(
    page: Page,
) -> None:
    check_figures(page)


def test_every_section_is_in_the_strip_and_has_its_numbers_without_a_script(page: Page) -> None:
    links = [row["href"] for tag, row in page.tags if tag == "a"]
    ids = [f"#{row['id']}" for tag, row in page.tags if tag == "h2"]
    assert links == ids
    assert len(links) == 8
    without_scripts = re.sub(r"<script.*?</script>", "", page.text, flags=re.DOTALL)
    for stage in STAGES:
        assert without_scripts.count(f">{stage}</span>") == 2  # table and legend
    assert "scripts are switched off" in without_scripts
    assert "DecompressionStream" in (HERE / "page.js").read_text()
