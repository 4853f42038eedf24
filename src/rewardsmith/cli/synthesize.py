"""``rewardsmith data synthesize``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli import console
from rewardsmith.cli.options import Json, Quiet, SkipBad, tags_option
from rewardsmith.cli.synthesize_own import own_pairs, warn_of_bare_responses
from rewardsmith.errors import UsageError

if TYPE_CHECKING:
    from rewardsmith.thinking.pairs import Counting, ThinkingPair
    from rewardsmith.thinking.tags import Tags

_KINDS = ("thinking",)


class RowFormat(StrEnum):
    """What is written."""

    pairs = "pairs"
    stepwise = "stepwise"


def synthesize(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What the pairs are about: thinking.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.jsonl or .jsonl.gz).")],
    pairs: Annotated[
        int | None, typer.Option("-n", min=1, help="Pairs; default 1000, or all there are with --from.")
    ] = None,
    families: Annotated[
        str | None, typer.Option("--families", help="Kinds of problems, separated by commas; default: all.")
    ] = None,
    corruptions: Annotated[
        str | None, typer.Option("--corruptions", help="Ways of getting worse, separated by commas; default: all.")
    ] = None,
    difficulty: Annotated[
        str | None, typer.Option("--difficulty", help="1 (short) to 5 (long), or a range; default: 1-3.")
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option("--hold-out-families", help="Families (or how many) that go to the test file alone."),
    ] = None,
    test_output: Annotated[
        Path | None, typer.Option("--test-output", help="Where these go; default: OUTPUT with .test added.")
    ] = None,
    test_pairs: Annotated[int | None, typer.Option("--test-pairs", min=1, help="How many; default: n / 4.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Own data: ranked or labelled solutions become pairs; good ones (prompt, response) are corrupted.",
        ),
    ] = None,
    corrupt: Annotated[
        bool, typer.Option("--corrupt", help="With --from: corrupt the best response of ranked rows, too.")
    ] = False,
    answer_mark: Annotated[
        str | None,
        typer.Option(
            "--answer-mark",
            help='With --from: responses have no tags; their answer\'s line begins so: "A:". Responses with neither '
            "tags nor such a line are left out and counted.",
        ),
    ] = None,
    think_tags: Annotated[
        tuple[str, str] | None,
        tags_option("Tags of the thinking, two values; default <think> </think>."),
    ] = None,
    written: Annotated[
        RowFormat,
        typer.Option("--format", help="pairs, or stepwise: two rows a pair, every step of them labelled."),
    ] = RowFormat.pairs,
    skip_bad: SkipBad = False,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other pairs.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make preference pairs about thinking whose labels are known from how they were made.

    A good response to a problem with a computed solution against the same made worse in a way that has a name. The
    table says what "the longer one wins" and "the one with think tags wins" make of the pairs: a model has to beat it.
    """
    if kind not in _KINDS:
        raise UsageError(f"KIND is {kind!r}; known are {', '.join(_KINDS)}")
    if source is None and (corrupt or skip_bad or answer_mark is not None):
        raise UsageError("--corrupt, --answer-mark and --skip-bad are for own data; name it with --from")
    if source is not None and (families is not None or held_out is not None or difficulty is not None):
        unused = "--families, --hold-out-families and --difficulty"
        raise UsageError(f"{unused} are for made-up problems; leave them out with --from")
    if written is RowFormat.stepwise:
        if source is not None:
            raise UsageError("--format stepwise is for made-up problems, whose wrong step is known; leave --from out")
        corruptions = corruptions or "wrong_step_wrong_answer"
    if held_out is None and (test_output is not None or test_pairs is not None):
        raise UsageError("--test-output and --test-pairs need --hold-out-families")
    if source == "-":
        raise UsageError("--from reads its data twice, so not from standard input; name a file")
    from rewardsmith.thinking.tags import custom_tags

    tags = None if think_tags is None else custom_tags(*think_tags)
    worse = _corruptions(corruptions)
    left_out = None
    if source is not None:
        how = {"corrupt": corrupt, "skip_bad": skip_bad, "quiet": quiet or as_json}
        made, left_out = own_pairs(source, pairs, seed, worse, tags, answer_mark, **how)
        warn_of_bare_responses(made, tags)
        files = {output: made}
    else:
        files = _from_problems(
            output, pairs or 1000, seed, families, worse, difficulty, held_out, test_output, test_pairs
        )
        files = {path: [pair.with_tags(tags) for pair in made] if tags else made for path, made in files.items()}
    for path, made in files.items():
        _write(path, made, tags if written is RowFormat.stepwise else None, steps=written is RowFormat.stepwise)
    _report(files, tags, left_out, as_json, quiet)


def _from_problems(
    output: Path,
    count: int,
    seed: int,
    families: str | None,
    corruptions: list[str] | None,
    difficulty: str | None,
    held_out: str | None,
    test_output: Path | None,
    test_pairs: int | None,
) -> dict[Path, list[ThinkingPair]]:
    """The training pairs by file, and those of the families held out."""
    from rewardsmith.thinking.pairs import split_families, synthesize
    from rewardsmith.thinking.phrases import halves

    levels = _levels(difficulty or "1-3")
    chosen = _families("--families", families)
    if held_out is None:
        return {output: synthesize(count, seed, chosen, corruptions, levels)}
    seen, unseen = split_families(chosen, _held_out(held_out, chosen), seed)
    test_output = test_output or _beside(output)
    if test_output == output:
        raise UsageError(f"--test-output is {output}, the file of the other pairs; name another")
    own, other = halves()  # a sentence learnt by heart is of no use in the test file
    return {
        output: synthesize(count, seed, seen, corruptions, levels, own),
        test_output: synthesize(test_pairs or max(1, count // 4), seed, unseen, corruptions, levels, other),
    }


def _names(option: str, text: str, what: str, known: Iterable[str]) -> list[str]:
    """Names separated by commas, each a known one."""
    names, among = [name.strip() for name in text.split(",") if name.strip()], list(known)
    if unknown := next((name for name in names if name not in among), None):
        raise UsageError(f"{option}: unknown {what} {unknown!r}; known are {', '.join(among)}")
    if not names:
        raise UsageError(f"{option} {text!r}: names no {what}; known are {', '.join(among)}")
    return names


def _families(option: str, text: str | None, among: Iterable[str] | None = None) -> list[str] | None:
    from rewardsmith.thinking.problems import FAMILIES

    return None if text is None else _names(option, text, "family", FAMILIES if among is None else among)


def _corruptions(text: str | None) -> list[str] | None:
    from rewardsmith.thinking.corruptions import CORRUPTIONS, FORMER_NAMES

    if text is None:
        return None
    asked = ",".join(FORMER_NAMES.get(name.strip(), name) for name in text.split(","))
    return _names("--corruptions", asked, "corruption", CORRUPTIONS)


def _held_out(text: str, chosen: list[str] | None) -> int | list[str]:
    """How many families the test file has to itself, or which."""
    from rewardsmith.thinking.problems import FAMILIES

    among = list(FAMILIES) if chosen is None else list(dict.fromkeys(chosen))
    number = text.strip()
    names = [] if number.isdecimal() else _families("--hold-out-families", text, among) or []
    held = int(number) if number.isdecimal() else len(set(names))
    if len(among) < 2:
        raise UsageError(f"--hold-out-families {text}: --families names {among[0]} alone; name two or more")
    if not 1 <= held < len(among):
        raise UsageError(
            f"--hold-out-families {text}: holds out {held} of {len(among)} families; give 1 to {len(among) - 1} of "
            "them, or names, so that both files have a family"
        )
    return names or held


def _levels(text: str) -> list[int]:
    """``1-3`` or ``2`` or ``1,4`` as difficulties."""
    from rewardsmith.thinking.problems import DIFFICULTIES

    levels: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        ends = (low.strip(), (high or low).strip())
        found = range(int(ends[0]), int(ends[1]) + 1) if all(end.isdecimal() for end in ends) else range(0)
        if not found or found[0] < DIFFICULTIES[0] or found[-1] > DIFFICULTIES[-1]:
            raise UsageError(
                f"--difficulty {text!r}: give a number from {DIFFICULTIES[0]} (short) to {DIFFICULTIES[-1]} (long), or "
                "a range such as 1-3"
            )
        levels.update(found)
    return sorted(levels)


def _beside(output: Path) -> Path:
    """``pairs.test.jsonl`` for ``pairs.jsonl``."""
    stem, dot, rest = output.name.partition(".")
    return output.with_name(f"{stem}.test{dot}{rest}")


def _write(path: Path, made: Sequence[ThinkingPair], tags: Tags | None, *, steps: bool) -> None:
    import json

    from rewardsmith.data.atomic import atomic_writer

    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(f"{path}: pairs are written as JSON Lines; name a file that ends in .jsonl or .jsonl.gz")
    if not made:
        raise UsageError(f"{path}: there is no pair to write")
    with atomic_writer(path) as stream:
        for row in _step_rows(made, tags) if steps else _pair_rows(made):
            stream.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


def _pair_rows(made: Sequence[ThinkingPair]) -> Iterator[dict[str, Any]]:
    from rewardsmith.data import to_row

    for pair in made:
        yield {**to_row(pair.comparison), **pair.extra}


def _step_rows(made: Sequence[ThinkingPair], tags: Tags | None) -> Iterator[dict[str, Any]]:
    from rewardsmith.thinking.stepwise import stepwise

    for pair in made:
        for item in stepwise(pair, tags):
            labels = [None if label is None else label > 0.5 for label in item.labels]
            row = {"prompt": item.prompt, "completions": list(item.steps), "labels": labels, "id": item.id}
            yield {**row, "subset": pair.comparison.subset, "family": pair.family, "difficulty": pair.difficulty}


def _report(
    files: dict[Path, list[ThinkingPair]], tags: Tags | None, left_out: int | None, as_json: bool, quiet: bool
) -> None:
    from rewardsmith.intervals import wilson
    from rewardsmith.thinking.pairs import counting

    found = {path: counting((pair.comparison for pair in made), tags) for path, made in files.items()}
    if as_json:

        def entry(counted: Counting) -> dict[str, Any]:
            wins = {"longer_wins": counted.longer_wins, "tag_wins": counted.tag_wins}
            estimates = {name: wilson(value, counted.pairs).as_dict() for name, value in wins.items()}
            return {"pairs": counted.pairs, **estimates}

        reports = []
        for path, counted in found.items():
            subsets = {name: entry(one) for name, one in counted.items() if name != "all"}
            kinds = sorted({pair.family for pair in files[path] if pair.family})
            reports.append({"output": str(path), "families": kinds, **entry(counted["all"]), "subsets": subsets})
        more = {"test": reports[1]} if len(reports) > 1 else {}
        console.print_json(reports[0] | ({} if left_out is None else {"responses_left_out": left_out}) | more)
        return
    if quiet:
        return
    for path, counted in found.items():
        rows = [
            (name, one.pairs, f"{one.longer_wins / one.pairs:.2f}", f"{one.tag_wins / one.pairs:.2f}")
            for name, one in counted.items()
        ]
        rows = [*sorted(rows[1:]), rows[0]]
        title = f"{path} (longer: in characters, equal lengths count one half)"
        console.table(title, ("corruption", "pairs", "longer wins", "has-think-tag wins"), rows)
