"""Rules of the evaluation of accuracy beside the generated sources."""

from dataclasses import replace

from train.configuration.schema import RunConfig

_KEY = "evaluation.accuracy"


def accuracy_problems(config: RunConfig) -> list[str]:
    """Returns why the documents that an evaluation of accuracy asks for cannot be made, one line each."""
    wanted, generated = config.evaluation.accuracy, config.data.generated
    if not wanted.lengths or not config.evaluation.enabled:
        return []
    name = wanted.source_of(generated)
    if not name:
        return [
            f"{_KEY}.lengths={wanted.lengths}: no generated source has held-out documents; give "
            "data.sources.NAME.generated, or drop it"
        ]
    if name not in generated:
        known = ", ".join(generated) or "none"
        return [f"{_KEY}.source={name}: is no generated source of this run; they are: {known}"]
    settings, found = generated[name], list[str]()
    if len({*wanted.lengths}) < len(wanted.lengths):
        found.append(f"{_KEY}.lengths={wanted.lengths}: have a length twice; give each once")
    if wanted.documents > settings.heldout:
        found.append(
            f"{_KEY}.documents={wanted.documents}: {name} has {settings.heldout} held-out documents; give "
            f"data.sources.{name}.generated.heldout={wanted.documents}, or fewer documents"
        )
    if wanted.greedy_documents > wanted.documents:
        found.append(
            f"{_KEY}.greedy_documents={wanted.greedy_documents}: must be at most {_KEY}.documents="
            f"{wanted.documents}; give {wanted.documents} or less"
        )
    if settings.problems():
        return found
    for length in wanted.lengths:
        longer = replace(settings, min_length=length, max_length=length)
        found += [
            f"{_KEY}.lengths={wanted.lengths}: {name} has no documents of {length} tokens: {problem}"
            for problem in longer.problems()
        ]
    return found
