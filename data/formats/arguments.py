"""Options that all commands that read documents share."""

import argparse

from data.command_line import Parser
from data.formats.bad_records import ON_ERROR
from data.formats.field_options import FieldOptions

FORMATS_HELP = """\
formats, by the end of a file's name; .gz, .zst, .xz or .bz2 may follow each:
  .jsonl .ndjson           a JSON object per line
  .json                    an array of objects, objects one after the other, or a JSON object per line
  .csv .tsv                a header of column names, then records; quoted as RFC 4180 says
  .txt .md .rst .html ...  any other text: the whole file is one document, in UTF-8
docs/data.md lists what is refused, and what is counted."""


def make_parser(command: str, description: str) -> Parser:
    """A parser with the options for inputs."""
    parser = Parser(
        prog=f"ropewalk {command.removeprefix('data.')}",
        description=description,
        epilog=FORMATS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="files, or folders of them")
    add(
        "--text-field",
        metavar="NAME",
        help="field of a JSON record or column of a table that holds the text; a.b is field b inside field a"
        " (default: text)",
    )
    add(
        "--unlabelled-field",
        metavar="NAME",
        help="field or column with a text that comes before the text, as a prompt: the model reads it, and no loss is"
        " taken on its tokens (default: none)",
    )
    add(
        "--segments-field",
        metavar="NAME",
        help='field of a JSON record with the text as a list of {"text": ..., "label": true or false}; no loss is taken'
        " on tokens with label false (default: none)",
    )
    add(
        "--on-error",
        choices=ON_ERROR,
        default="fail",
        help="at a bad record: stop, or leave it out and count it (default: %(default)s)",
    )
    return parser


def given_fields(options: argparse.Namespace) -> FieldOptions:
    """The options that name fields."""
    return FieldOptions(options.text_field, options.unlabelled_field, options.segments_field)
