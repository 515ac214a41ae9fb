"""The folder of baselines as it was at a commit, which no change of the working tree reaches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pytest_llmbench.host.commit import Commit, CommitError
from pytest_llmbench.schema.text import printable
from pytest_llmbench.store.baseline import MOST_MIB, BaselineError
from pytest_llmbench.store.baselines import Baselines

__all__ = ["CommittedBaselines"]


class CommittedBaselines(Baselines):
    """
    The baselines of one commit, read only.

    Args:
        root: the folder, as it is or was in the working tree.
        commit: of the repository that holds it.

    Raises:
        CommitError: the folder is not in the repository, or was not at that commit.
    """

    def __init__(self, root: Path, commit: Commit) -> None:
        self.root = root
        self.commit = commit
        self._decoded = {}
        self._place = commit.place_of(root)
        self._files = commit.files(self._place)
        if self._place in self._files:
            raise CommitError(f"{commit.short}:{self._place} is a file or a link, and no folder; commit a folder there")
        if not self._files:
            raise CommitError(
                f"{self._place}: there is no such folder at {commit}; commit baselines there first, without this "
                "option, or name the folder with --llmbench-baselines"
            )

    def __str__(self) -> str:
        return f"{self._place} at {self.commit}"

    def check(self) -> None:
        """
        Read every table once.

        Raises:
            BaselineError: one of them is not a whole baseline.
        """
        for folder, table in self.tables():
            self.load(folder, table)

    def _content(self, path: Path) -> bytes | None:
        place = self._placed(path)
        file = self._files.get(place)
        if file is None:
            return None
        known = self._decoded.get(path)
        if known is not None:  # a commit does not change
            return known[0]
        try:
            return self.commit.content(place, file, most_mib=MOST_MIB)
        except CommitError as error:
            raise BaselineError(f"cannot be read: {error}", self._named(path)) from None

    def _named(self, path: Path) -> Path:
        return Path(f"{self.commit.short}:{printable(str(self._placed(path)), lines=False)}")

    def _paths(self, folder: str) -> Iterable[Path]:
        for place in sorted(self._files):
            within = place.relative_to(self._place).parts
            if len(within) == 2 and place.suffix == ".json" and folder in ("*", within[0]):
                yield self.root.joinpath(*within)

    def _placed(self, path: Path) -> PurePosixPath:
        return self._place.joinpath(*path.relative_to(self.root).parts)
