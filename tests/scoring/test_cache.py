"""Known scores on disk: found by content alone, never corrupt, never lost once ``put`` has returned."""

from __future__ import annotations

import hashlib
import inspect
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from rewardsmith.encoding.template import Rendered
from rewardsmith.errors import FileError
from rewardsmith.model.backbone import Backbone
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scoring import cache as module
from rewardsmith.scoring.cache import Entry, ScoreCache, key_of
from rewardsmith.scoring.scorer import Scorer
from tests.conftest import with_random_head

PROMPTS = ["what is 15 + 27?"] * 3 + ["a question"]
RESPONSES = ["42", "the answer is fox", "42", "lazy dog"]
ENTRIES = {
    b"a" * 32: Entry(0.1 + 0.2, 1e-300, None),
    b"b" * 32: Entry(-1e300, None, (0.1, -0.0, 3.0)),
    bytes(32): Entry(0.0, 0.0, (2.5,)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.db"


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The tokens of every forward pass from now on."""
    seen: list[int] = []
    states = Backbone.states

    def counted(self, batch, *rest, **more):
        seen.append(batch.input_ids.numel())
        return states(self, batch, *rest, **more)

    monkeypatch.setattr(Backbone, "states", counted)
    return seen


class TestEntries:
    def test_they_come_back_to_the_bit(self, path) -> None:
        first = ScoreCache(path)
        first.put(ENTRIES.items())
        assert first.get([*ENTRIES, b"c" * 32]) == ENTRIES
        first.close()
        again = ScoreCache(path)
        assert again.get(list(ENTRIES)) == ENTRIES
        assert len(again) == 3
        again.close()

    def test_nothing_asked_nothing_put(self, path) -> None:
        cache = ScoreCache(path)
        cache.put([])
        assert cache.get([]) == {}
        assert len(cache) == 0

    def test_what_is_there_stays(self, path) -> None:
        cache = ScoreCache(path)
        cache.put([(b"a", Entry(1.0, None, None))])
        cache.put([(b"a", Entry(2.0, None, None)), (b"b", Entry(3.0, None, None))])
        assert [cache.get([key])[key].reward for key in (b"a", b"b")] == [1.0, 3.0]

    def test_all_of_a_batch_or_nothing(self, path) -> None:
        cache = ScoreCache(path)
        with pytest.raises(FileError, match=r"scores\.db: cannot be written"):
            cache.put([(b"a", Entry(1.0, None, None)), (b"b", Entry(None, None, None))])  # type: ignore[arg-type]
        assert len(cache) == 0
        cache.put([(b"a", Entry(1.0, None, None))])  # and it goes on
        assert len(cache) == 1

    def test_more_keys_than_one_query_takes(self, path) -> None:
        cache = ScoreCache(path)
        entries = {struct.pack("<q", n): Entry(float(n), None, None) for n in range(1700)}
        cache.put(entries.items())
        assert cache.get(list(entries)) == entries

    def test_keys_stand_for_model_and_tokens(self) -> None:
        texts = [Rendered((1, 2, 3), 1), Rendered((1, 2, 3), 2), Rendered((1, 2), 1), Rendered((12, 3), 1)]
        keys = {key_of(model, text) for model in ("a", "b") for text in texts}
        assert len(keys) == 8
        assert {len(key) for key in keys} == {32}
        assert key_of("a", texts[0]) == key_of("a", Rendered((1, 2, 3), 1, truncated=True))

    def test_many_threads(self, path) -> None:
        cache, wrong = ScoreCache(path), []

        def work(seed: int) -> None:
            draw = random.Random(seed)
            try:
                for _ in range(30):
                    keys = [b"%d" % draw.randrange(500) for _ in range(20)]
                    cache.put((key, Entry(float(key), None, None)) for key in keys)
                    found = cache.get(keys)
                    wrong.extend(key for key in keys if found[key].reward != float(key))
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestFiles:
    def test_what_is_no_database(self, path) -> None:
        path.write_text("prompt,response\n" * 1000)
        with pytest.raises(FileError, match=r"scores\.db: cannot be used as a score cache \(.*\); give another file"):
            ScoreCache(path)
        assert path.read_text() == "prompt,response\n" * 1000

    def test_another_process_may_make_it_meanwhile(self, path, monkeypatch) -> None:
        """Between looking for the mark and for tables: it is a cache of ours, not another program's database."""
        look, others = ScoreCache._mark, []

        def looks(self: ScoreCache) -> int:
            mark = look(self)
            if not others:
                others.append(True)
                with monkeypatch.context() as patch, suppress(FileError):  # it waits for us, here in vain
                    patch.setattr(module, "_WAIT", 0.1)
                    ScoreCache(path).put(ENTRIES.items())
            return mark

        monkeypatch.setattr(ScoreCache, "_mark", looks)
        cache = ScoreCache(path)
        cache.put(ENTRIES.items())
        assert len(cache) == 3

    def test_the_database_of_another_program_is_left_alone(self, path) -> None:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE rewards (id INTEGER, reward TEXT)")
            other.execute("INSERT INTO rewards VALUES (1, 'gold')")
        other.close()
        before = path.read_bytes()
        with pytest.raises(FileError, match="is a database, but no score cache; give another file"):
            ScoreCache(path)
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT * FROM rewards").fetchall() == [(1, "gold")]
        other.close()
        assert path.read_bytes() == before, "not even the journal's mode may change"

    def test_an_empty_file_becomes_one(self, path) -> None:
        path.touch()
        cache = ScoreCache(path)
        cache.put(ENTRIES.items())
        assert len(cache) == 3

    @pytest.mark.parametrize("place", ["missing/scores.db", "."])
    def test_a_place_that_cannot_be_opened(self, tmp_path, place) -> None:
        with pytest.raises(FileError, match="cannot be used as a score cache"):
            ScoreCache(tmp_path / place)

    def test_a_damaged_file_is_said_and_not_believed(self, path) -> None:
        cache = ScoreCache(path)
        entries = {hashlib.sha256(b"%d" % n).digest(): Entry(float(n), None, None) for n in range(3000)}
        cache.put(entries.items())
        cache.close()
        whole = path.read_bytes()
        path.write_bytes(whole[:8192] + b"\xa5" * (len(whole) - 8192))  # all pages but the first two
        with pytest.raises(FileError, match=r"scores\.db: cannot be .*(malformed|not a database)"):
            ScoreCache(path).get(list(entries))
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(FileError, match=r"scores\.db: cannot be .*(malformed|not a database)"):
            ScoreCache(path).get(list(entries))

    def test_after_it_was_closed(self, path) -> None:
        cache = ScoreCache(path)
        cache.close()
        for use in (lambda: cache.get([b"a"]), lambda: cache.put(ENTRIES.items())):
            with pytest.raises(FileError, match="closed"):
                use()


# -- with a model


def scored(models: RewardModel | list[RewardModel], path: Path | None, **options) -> list:
    with Scorer(models, cache=path, **options) as scorer:
        return scorer.score(PROMPTS, RESPONSES)


class TestScoring:
    def test_what_is_known_is_not_computed(self, trained, path, passes) -> None:
        without = scored(trained, None)
        passes.clear()
        first = scored(trained, path)
        assert passes
        assert [one.reward for one in first] == pytest.approx([one.reward for one in without], abs=1e-5)
        assert first[0] == first[2]
        passes.clear()
        assert scored(trained, path) == first  # rewards, standard errors, tokens: equal to the bit
        assert not passes
        cache = ScoreCache(path)
        assert len(cache) == 3  # equal texts once

    def test_only_what_is_missing_is_computed(self, trained, path, passes) -> None:
        first = scored(trained, path)
        passes.clear()
        with Scorer(trained, cache=path) as scorer:
            again = scorer.score([*PROMPTS, "new"], [*RESPONSES, "fox"])
            assert sum(passes) == again[-1].tokens
        assert again[:4] == first
        assert again[4].reward == pytest.approx(trained.score("new", "fox"), abs=1e-5)

    def test_any_batch_and_order_finds_it(self, trained, path, passes) -> None:
        with Scorer(trained, cache=path, budget=16) as scorer:
            first = scorer.score(PROMPTS, RESPONSES)
            passes.clear()
            assert scorer.score(PROMPTS[::-1], RESPONSES[::-1]) == first[::-1]
            assert list(scorer.stream(zip(PROMPTS, RESPONSES, strict=True))) == first
        assert not passes

    @pytest.mark.parametrize("change", ["head", "weights", "dtype", "normaliser", "model", "attention"])
    def test_another_model_is_not_answered_from_it(self, bases, models, path, passes, change) -> None:
        model = with_random_head(RewardModel.from_base(bases["llama"]))
        scored(model, path)
        if change == "head":
            other = with_random_head(RewardModel.from_base(bases["llama"]), seed=1)
        elif change == "weights":
            other = with_random_head(RewardModel.from_base(bases["llama"]))
            other.backbone.body.layers[1].mlp.up_proj.weight.data += 0.01
        elif change == "normaliser":
            other = model.sealed(mean=0.5, std=2.0)
        elif change == "model":
            other = models["mistral"]
        else:
            options = {"dtype": "bfloat16"} if change == "dtype" else {"attention": "sdpa"}
            other = with_random_head(RewardModel.from_base(bases["llama"], **options))
        passes.clear()
        found = scored(other, path)
        assert passes, "answered with another model's rewards"
        assert [one.reward for one in found] == pytest.approx(other.score_batch(PROMPTS, RESPONSES), abs=1e-5)
        passes.clear()
        assert scored(model, path)  # both are in there now
        assert scored(other, path) == found
        assert not passes

    def test_another_posterior_is_not_answered_from_it(self, trained, path) -> None:
        surer = replace(trained.posterior, factor=trained.posterior.factor / 2)
        first, second = scored(trained, path), scored(replace(trained, posterior=surer), path)
        assert [one.reward for one in first] == [one.reward for one in second]
        assert [one.reward_se / 2 for one in first] == pytest.approx([one.reward_se for one in second])
        assert scored(replace(trained, posterior=None), path)[0].reward_se is None

    def test_the_same_model_loaded_again_is_answered(self, models, tmp_path, path, passes) -> None:
        folder = models["qwen3"].save(tmp_path / "rm")
        first, again = RewardModel.load(folder), RewardModel.load(folder)
        expected = scored(first, path)
        passes.clear()
        assert scored(again, path) == expected
        assert not passes

    def test_several_models_share_a_file(self, models, path, passes) -> None:
        pair = [models["llama"], models["bert"]]
        first = scored(pair, path)
        passes.clear()
        assert scored(pair[1], path) == [
            replace(
                one, reward=one.members[1], members=None, tokens=alone.tokens, response_tokens=alone.response_tokens
            )
            for one, alone in zip(first, scored(pair[1], None), strict=True)
        ]
        passes.clear()
        assert scored(pair, path, aggregate="min") == [replace(one, reward=min(one.members)) for one in first]
        assert not passes

    def test_a_text_that_cannot_be_scored_is_not_kept(self, trained, path) -> None:
        with Scorer(trained, cache=path) as scorer:
            found = scorer.try_score(["p", 5], ["fox", "fox"])
            assert found[0].reward == pytest.approx(trained.score("p", "fox"), abs=1e-5)
            assert "text or a list of messages" in str(found[1])
        assert len(ScoreCache(path)) == 1


# -- two processes, one of them killed

BATCH = 1000
WRITER = """
import hashlib, struct, sys, time
from rewardsmith.scoring.cache import Entry, ScoreCache
BATCH = {BATCH}
{batch_of}
{expected}
cache, number = ScoreCache(sys.argv[1]), int(sys.argv[2])
while True:
    cache.put(batch_of(number))
    print(number, flush=True)  # acknowledged: put has returned
    number += int(sys.argv[3])
    time.sleep(0.001)  # as scoring would: without it the other one hardly gets the lock
"""


def batch_of(number: int) -> list[tuple[bytes, Entry]]:
    """A batch of entries that are a function of their keys; half of its keys are also in the batch after it."""
    keys = [hashlib.sha256(b"%d" % n).digest() for n in range(number * BATCH // 2, number * BATCH // 2 + BATCH)]
    return [(key, expected(key)) for key in keys]


def expected(key: bytes) -> Entry:
    a, b, *members = (number / 2**40 for number in struct.unpack("<4q", key))
    return Entry(a, b, tuple(members))


def started(path: Path, first: int) -> subprocess.Popen:
    # Given the functions as text, not this file with its imports: one that starts at once is killed at more places.
    program = WRITER.format(BATCH=BATCH, batch_of=inspect.getsource(batch_of), expected=inspect.getsource(expected))
    arguments = [sys.executable, "-c", program, str(path), str(first), "2"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_while_one_is_killed(path) -> None:
    """SIGKILL at random moments: what was acknowledged is there, as whole batches, and nothing there is wrong."""
    draw, acknowledged = random.Random(0), set()
    for round_ in range(6):
        first = 1 + 10_000 * round_
        writers = [started(path, first), started(path, first + 1)]  # neighbours share half of their keys
        said = [writer.stdout.readline() for writer in writers]
        assert all(said), "a writer could not write"
        time.sleep(draw.uniform(0.01, 0.1))
        writers[0].send_signal(signal.SIGKILL)
        time.sleep(0.05)
        assert writers[1].poll() is None, "the other one must go on"
        writers[1].send_signal(signal.SIGKILL)
        said += [line for writer in writers for line in writer.communicate()[0].splitlines(True)]
        acknowledged |= {int(line) for line in said if line.endswith("\n")}
    _check(path, acknowledged)
    assert len(acknowledged) > 12  # more than the first batch of each


def _check(path: Path, acknowledged: set[int]) -> None:
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        keys = [key for (key,) in file.execute("SELECT key FROM rewards")]
    file.close()
    cache = ScoreCache(path)
    found = cache.get(keys)
    cache.close()
    wrong = [key for key in keys if found[key] != expected(key)]
    assert not wrong, f"{len(wrong)} of {len(keys)} entries are corrupt"
    # A put may have been done and its writer killed before it could say so: look a little further than was said.
    batches = {n: [key for key, _ in batch_of(n)] for n in {m + more for m in acknowledged for more in range(5)}}
    whole = {number for number, batch in batches.items() if all(key in found for key in batch)}
    assert acknowledged <= whole, f"{len(acknowledged - whole)} acknowledged batches are lost"
    torn = set(keys).difference(*(batches[number] for number in whole))
    assert not torn, f"{len(torn)} entries are of a batch that is not there as a whole"


def test_many_open_a_new_file_at_once(tmp_path, path) -> None:
    program = (
        "import sys, time\nfrom rewardsmith.scoring.cache import Entry, ScoreCache\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "ScoreCache(sys.argv[1]).put([(sys.argv[3].encode(), Entry(1.0, None, None))])\n"
    )
    start = str(time.time() + 1.5)
    many = [
        subprocess.Popen([sys.executable, "-c", program, str(path), start, str(n)], stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    assert [one.communicate()[1] for one in many] == [""] * 4
    assert len(ScoreCache(path)) == 4
