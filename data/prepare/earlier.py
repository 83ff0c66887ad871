"""Checks for earlier files under the output prefixes: of the same job, of an unfinished job, or of another job."""

from data.prepare.append_journal import read_header
from data.prepare.identity import FILES, differences
from data.prepare.options import PrepareOptions
from data.tokens.manifest import Manifest, load, verify
from data.tokens.prefix import (
    bin_path,
    errors_path,
    idx_path,
    journal_path,
    labels_path,
    manifest_path,
    ngram_path,
    partial,
    temporary_files,
)

PARTS = ("training", "held-out")


def find_made(options: PrepareOptions, job: Manifest) -> tuple[Manifest, ...] | None:
    """The manifests of the files of this job if they are all complete and undamaged, else None."""
    manifests = []
    for prefix, part in zip(options.prefixes, PARTS, strict=False):
        try:
            if _other_job(load(prefix), job, part, options):
                return None
            manifests.append(verify(prefix))
        except ValueError:
            return None
    return tuple(manifests)


def refuse_others(options: PrepareOptions, job: Manifest) -> None:
    """Checks that no files of another job would be replaced.

    Raises:
        ValueError: a prefix has finished files or an unfinished job of other inputs or options, or another process
            is working on it.
    """
    header = read_header(journal_path(options.output))
    unfinished = _unfinished(header, job)
    found = [f"output={options.output}: {unfinished}"] if unfinished else []
    for prefix, part in zip(options.prefixes, PARTS, strict=False):
        obstacle = _finished(prefix, job, part, options)
        if not obstacle and not header and prefix != options.output:
            obstacle = _unfinished_elsewhere(prefix)
        if not obstacle and not header:
            obstacle = _undescribed(prefix)
        if obstacle:
            found.append(f"output={prefix}: {obstacle}")
    if found:
        raise ValueError(
            f"{'; '.join(found)}. Give another output, or replace what is there with --overwrite"
        )


def warning_of_held_out(options: PrepareOptions) -> str:
    """A warning if the held-out part of the files that are replaced becomes training data, else an empty text."""
    if options.heldout_output or not manifest_path(options.output).is_file():
        return ""
    try:
        heldout = load(options.output).get("heldout")
    except ValueError:
        return ""
    if not heldout:
        return ""
    return (
        f"warning: output={options.output}: the held-out part of the replaced files (fraction {heldout['fraction']},"
        f" seed {heldout['seed']}) stays on disk; remove it if the new files hold its documents"
    )


def _unfinished(header: Manifest | None, job: Manifest) -> str:
    """How the job of a journal differs; "" for this job, or one that no command can continue."""
    if not header or header.get("identity") == job["fingerprint"]:
        return ""
    about = header.get("about")
    if about is None:
        return "holds an unfinished job of other inputs or options"
    # If only the input files have changed, no command can continue that job.
    found = [line for line in differences(about, job) if not line.startswith(FILES)]
    return f"holds an unfinished job of other options ({'; '.join(found)})" if found else ""


def _finished(prefix: str, job: Manifest, part: str, options: PrepareOptions) -> str:
    if not manifest_path(prefix).is_file():
        return ""
    try:
        made = load(prefix)
    except ValueError as error:
        return f"holds token files whose manifest cannot be used ({error})"
    return _other_job(made, job, part, options)


def _other_job(made: Manifest, job: Manifest, part: str, options: PrepareOptions) -> str:
    """How the job of finished files differs from this job; "" if it does not."""
    found = differences(made, job)
    if not found and made.get("fingerprint") != job["fingerprint"]:
        found = ["the input files have changed since"]
    if made.get("part", part) != part:
        found.append(f"they are the {made['part']} part, now the {part} part")
    fatal = sum(count for kind, count in made.get("skipped", {}).items() if kind != "empty")
    if fatal and options.on_error == "fail":
        found.append(f"on-error skip left out {fatal} records, now fail")
    return f"holds token files of another job ({'; '.join(found)})" if found else ""


def _unfinished_elsewhere(prefix: str) -> str:
    path = next((p for p in (journal_path(prefix), partial(bin_path(prefix))) if p.is_file()), None)
    return f"holds {path.name} of another unfinished job" if path is not None else ""


def _undescribed(prefix: str) -> str:
    if manifest_path(prefix).is_file():
        return ""
    found = [path.name for path in (bin_path(prefix), idx_path(prefix)) if path.is_file()]
    return f"holds {' and '.join(found)}, which no manifest describes" if found else ""


def remove_outdated(prefix: str, *, keep_errors: bool) -> None:
    """Remove files of a prefix that do not describe the new tokens, the manifest first, and temporary files."""
    paths = [manifest_path(prefix), labels_path(prefix), ngram_path(prefix)]
    if not keep_errors:
        paths.append(errors_path(prefix))
    for path in [*paths, *temporary_files(prefix)]:
        path.unlink(missing_ok=True)
