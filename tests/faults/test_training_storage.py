"""A disk that is full, read-only or failing at each write of a stage: told so, and nothing lost."""

import errno
import random
import re

import pytest
from faults.interposing import Action, Fault, happened
from faults.undisturbed import goes_on, points, require_whole_or_none
from stage_attempts import again, read_result

from coldstart.layout import output
from coldstart.stage import MANIFEST
from coldstart.status import ErrorCode

FULL, READ_ONLY, FORBIDDEN, FAILING = errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO

CODES = {FULL: ErrorCode.STORAGE_FULL}
"""Every other means that the storage cannot be written."""

COUNTS = {
    ("sft", FULL): 16,
    ("sft", READ_ONLY): 10,
    ("sft", FORBIDDEN): 4,
    ("sft", FAILING): 6,
    ("grpo", FULL): 4,
    ("grpo", READ_ONLY): 2,
    ("distill", FULL): 4,
    ("distill", READ_ONLY): 2,
    ("evaluation", FULL): 4,
    ("evaluation", READ_ONLY): 2,
}

POINTS = [(*key, number) for key, count in COUNTS.items() for number in range(count)]
NAMES = [f"{stage}-{errno.errorcode[error]}-{number:02}" for stage, error, number in POINTS]
SEED = 11


@pytest.mark.parametrize(("stage", "error", "number"), POINTS, ids=NAMES)
def test_what_cannot_be_written_is_told_and_nothing_is_lost(
    stage, error, number, disturb, tmp_path
):
    """As in a pod: the result lies elsewhere. A disk that fails does so once, the others stay."""
    case, whole = disturb(stage)
    generator = random.Random(SEED + error)
    count = COUNTS[stage, error]
    kinds = ("open", "write", "mkdir") if error == FULL else None
    inside = tuple(
        item
        for item in whole.operations
        if not _of_result(item) and (kinds is None or item.kind in kinds)
    )
    operation = points(inside, count, generator, all_kinds=False)[number]
    action = Action.FAIL_ONCE if error == FAILING else Action.FAIL_ON
    fault = Fault(operation, action, error)
    print(fault)
    given = case.order(tmp_path / "runs")
    result = tmp_path / "result.json"
    code = case.attempt(given, fault, result)
    assert happened(result)
    require_whole_or_none(given)
    told = read_result(result)
    if error != FAILING or code:
        said = (tmp_path / "result.json.log").read_text()
        assert told.error, said
        assert told.error.code is CODES.get(error, ErrorCode.STORAGE_UNWRITABLE), told.error
        assert code == told.error.code.exit_code == 2
        assert str(tmp_path) in told.error.message, told.error.message
    if sealed(result):
        whole_ones = list(output(given).checkpoints.glob(f"checkpoint-*/{MANIFEST}"))
        assert whole_ones or output(given).final.exists()
    goes_on(case, again(given), whole)


def _of_result(operation):
    """Whether it is there for the result, which lies elsewhere here."""
    again = operation.path.endswith("/attempt-1") and operation.number > 1
    return again or "/result.json" in operation.path


def sealed(result):
    """Whether a checkpoint was whole before the fault."""
    text = result.with_name("result.json.operations").read_text().split("fault\t")[0]
    return re.search(rf"^rename\t.*/checkpoint-\d+/{re.escape(MANIFEST)}\t", text, re.MULTILINE)


@pytest.mark.parametrize("stage", ["distill", "sft", "grpo"])
def test_when_a_manifest_appears_all_that_it_names_is_on_the_disk(stage, disturb):
    """What a crash of the machine would lose, told from the order of writes and fsyncs."""
    _, whole = disturb(stage)
    operations = [(operation.kind, operation.path) for operation in whole.operations]
    manifests = [i for i, (kind, path) in enumerate(operations) if _is_manifest(kind, path)]
    assert manifests
    for index in manifests:
        directory = operations[index][1].removesuffix(f"/{MANIFEST}")
        before = operations[:index]
        written = {path for kind, path in before if kind == "write" and path.startswith(directory)}
        for path in written:
            later = before[_last(before, ("write", path)) :]
            assert ("fsync", path) in later or not _survives(path, before), path
        end = _first(operations[index:], "unlink", f"/{MANIFEST}") + index
        after = operations[index:end]
        assert ("fsync", directory) in after
        assert ("fsync", directory.rpartition("/")[0]) in operations[index : end + 1]


def _is_manifest(kind, path):
    return kind == "rename" and path.endswith(f"/{MANIFEST}")


def _survives(path, before):
    """Whether a file that was written is still there under its name."""
    gone = path.endswith(("/.tmp", ".partial", "training_args.bin")) and "final.partial" in path
    return not gone and not path.endswith(("/.tmp", "counters_0.json.partial"))


def _last(operations, wanted):
    return max(index for index, operation in enumerate(operations) if operation == wanted)


def _first(operations, kind, ending):
    """Where a checkpoint's manifest is removed, or where the record ends."""
    found = [i for i, item in enumerate(operations) if item[0] == kind and item[1].endswith(ending)]
    return found[0] if found else len(operations)
