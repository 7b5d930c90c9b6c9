"""What tells runs apart besides their scores: settings, data, versions, and whether one searches the other's index."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ccpml.files import digest_of
from ccpml.runs.directory import RunDirectory, UnfinishedRunError
from ccpml.runs.inference import Run
from ccpml.system_errors import message_of

__all__ = ["Fact", "Identity", "index_sentences", "list_differences"]


@dataclass(frozen=True)
class Fact:
    """A setting or a circumstance that is not the same for all runs, and its value in each."""

    name: str
    values: tuple[str, ...]


def list_differences(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """Return what differs between runs: settings, data, steps, versions, commit and hardware."""
    facts = [_facts_of(run) for run in runs]
    names = list(dict.fromkeys(name for each in facts for name in each))
    found = [Fact(name, tuple(each.get(name, "–") for each in facts)) for name in names]
    return tuple(fact for fact in found if len(set(fact.values)) > 1)


def _facts_of(run: Run) -> dict[str, str]:
    directory = RunDirectory(run.path)
    facts = {name: str(value) for name, value in run.settings.flat().items()}
    facts["digest of the data"] = digest_of(directory.record().classes)[:16]
    try:
        facts["digest as read (cached, left out)"] = directory.fingerprint()[:16]
    except (ValueError, OSError):
        facts["digest as read (cached, left out)"] = f"unknown: {directory.images_file.name} is lost or damaged"
    scores: Mapping[str, Any] = {}
    try:
        scores = directory.scores()
    except UnfinishedRunError:
        facts["scores"] = f"none: {directory.scores_file.name} not found"
    except (ValueError, OSError):
        facts["scores"] = f"unknown: {directory.scores_file.name} is damaged, of another run or cannot be read"
    for split, size in scores.get("splits", {}).items():
        facts[f"{split} classes, images"] = f"{size['classes']:,}, {size['images']:,}"
    if scores:
        facts["steps trained"] = f"{scores['steps']:,}"
        facts["commit"] = str(scores.get("commit") or "none (installed package)")
    for name, version in scores.get("versions", {}).items():
        facts[f"version of {name}"] = str(version)
    for name, value in scores.get("hardware", {}).items():
        facts[f"hardware: {name}"] = str(value)
    return facts


@dataclass(frozen=True)
class Identity:
    """The fingerprint of a run, or why it has none: its weights cannot be read."""

    fingerprint: str | None
    problem: str = ""

    @classmethod
    def of(cls, run: Run) -> "Identity":
        """Read the fingerprint of a run."""
        try:
            return cls(run.fingerprint)
        except (ValueError, OSError) as error:
            return cls(None, message_of(error))


def index_sentences(names: Sequence[str], runs: Sequence[Run], identities: Sequence[Identity]) -> tuple[str, ...]:
    """Return whether an index that was made with the first run can be searched with each other one."""
    return tuple(_index_sentence(names, runs, identities, number) for number in range(1, len(runs)))


def _index_sentence(names: Sequence[str], runs: Sequence[Run], identities: Sequence[Identity], number: int) -> str:
    first, other, a, b = names[0], names[number], runs[0], runs[number]
    problems = [each.problem for each in (identities[0], identities[number]) if each.problem]
    if problems:
        return f"Whether an index made with {first} can be searched with {other} is not known: {problems[0]}."
    if identities[0].fingerprint == identities[number].fingerprint:
        return f"An index made with {first} is searched with {other} as it is: weights and preprocessing are the same."
    reason = "weights or preprocessing differ"
    if a.embedding_dim != b.embedding_dim:
        reason = f"embeddings have {a.embedding_dim:,} and {b.embedding_dim:,} dimensions"
    return (
        f"An index made with {first} cannot be searched with {other}, as {reason}; build one with "
        f"`ccpml index {shlex.quote(str(b.path))} <pictures> -o <index>`."
    )
