"""A model hub: what a repository holds, and its files in the cache on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import httpx
from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    hf_hub_url,
    scan_cache_dir,
    try_to_load_from_cache,
)
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name

from rbee_export.checkpoint.checkpoint import ByteProgress
from rbee_export.checkpoint.model_directory import INDEX, named_shards
from rbee_export.download import Content, Download, retrying
from rbee_export.errors import CheckpointError, ExportError, shown
from rbee_export.hub_errors import explained, is_passing_at_hub, quiet
from rbee_export.hub_files import gguf_files, model_files
from rbee_export.source import HubReference
from rbee_runtime.units import human_size

_PATIENCE = httpx.Timeout(30.0, connect=10.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit.

    Attributes:
        commit: Its hash.
        files: What each file holds, by its path.
    """

    commit: str
    files: Mapping[str, Content]


@dataclass(frozen=True, slots=True)
class Hub:
    """A server that speaks the Hugging Face hub's protocol, and the cache of what came from it.

    Attributes:
        api: The library's client.
        cache: Directory that all programs of the hub share.
    """

    api: HfApi
    cache: Path

    @classmethod
    def of(cls, endpoint: str | None, cache: Path | None) -> Self:
        """Return a hub; ``None`` takes what the environment says."""
        api = HfApi(endpoint=endpoint, library_name="rbee-export")
        return cls(api, cache or Path(constants.HF_HUB_CACHE))

    def fetch(self, reference: HubReference, progress: ByteProgress | None = None) -> Path:
        """Return the path of a model, all its files in the cache; see ``source.resolve``.

        Raises:
            ExportError: It cannot be had; the line says why and what to do.
        """
        with quiet(), explained(str(reference), self.api.endpoint):
            try:
                listing = self._list(reference)
            except OfflineModeIsEnabled:
                return self._cached(reference)
            names = self._choose(reference, listing.files)
            folder = self._bring(reference, listing, names, progress)
            if INDEX in names:
                names = (*names, *_shards(str(reference), folder / INDEX, listing.files))
                self._bring(reference, listing, names, progress)
            return _place(folder, names)

    def _list(self, reference: HubReference) -> Listing:
        info = retrying(is_passing_at_hub)(
            lambda: self.api.model_info(
                reference.repository,
                revision=reference.revision,
                files_metadata=True,
                timeout=_PATIENCE.read,
            )
        )
        files = {}
        for file in info.siblings or ():
            digest = file.lfs.sha256 if file.lfs else file.blob_id
            if not _stays_inside(file.rfilename):
                continue
            if not isinstance(file.size, int) or not _DIGEST.fullmatch(str(digest)):
                raise CheckpointError(
                    f"{reference}: {self.api.endpoint} gives no size or checksum of "
                    f"{file.rfilename}; it is no hub, or too old a one"
                )
            files[file.rfilename] = Content(file.size, str(digest))
        if not _COMMIT.fullmatch(str(info.sha)):
            raise CheckpointError(f"{reference}: {self.api.endpoint} names no commit; is it a hub?")
        return Listing(str(info.sha), files)

    def _choose(self, reference: HubReference, names: Collection[str]) -> tuple[str, ...]:
        top = [PurePosixPath(name) for name in names if "/" not in name]
        has_gguf = any(name.lower().endswith(".gguf") for name in names)
        if reference.file is None and (
            not has_gguf or any(name.suffix == ".safetensors" for name in top)
        ):
            return model_files(str(reference), names)
        return gguf_files(str(reference), names, reference.file)

    def _bring(
        self,
        reference: HubReference,
        listing: Listing,
        names: Sequence[str],
        progress: ByteProgress | None,
    ) -> Path:
        """Bring files into the cache and return the folder of the commit."""
        folder = repo_folder_name(repo_id=reference.repository, repo_type="model")
        blobs = self.cache / folder / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        missing = [name for name in names if not self._has(reference, listing, name)]
        with (
            _locked(self.cache / ".locks" / folder / "rbee.lock"),
            httpx.Client(timeout=_PATIENCE, follow_redirects=True) as client,
        ):
            downloads = {name: self._download(reference, listing, name, blobs) for name in missing}
            _require_space(str(reference), blobs, downloads.values())
            total = sum(listing.files[name].size for name in names)
            done = total - sum(listing.files[name].size for name in missing)
            for name in missing:
                before = done

                def show(so_far: int, before: int = before) -> None:
                    if progress is not None:
                        progress(min(before + so_far, total), total)

                downloads[name].run(client, show)
                done += listing.files[name].size
        if progress is not None:
            progress(total, total)
        # The library lays out the cache. One file is enough for it to note where a branch is now.
        linked = missing or names[:1]
        placed = [self._link(reference, listing, name) for name in linked]
        return placed[0].parents[linked[0].count("/")]

    def _has(self, reference: HubReference, listing: Listing, name: str) -> bool:
        path = try_to_load_from_cache(
            reference.repository, name, cache_dir=self.cache, revision=listing.commit
        )
        return isinstance(path, str) and Path(path).stat().st_size == listing.files[name].size

    def _download(
        self, reference: HubReference, listing: Listing, name: str, blobs: Path
    ) -> Download:
        content = listing.files[name]
        return Download(
            name=f"{reference}: {name}",
            url=hf_hub_url(
                reference.repository,
                name,
                revision=listing.commit,
                endpoint=self.api.endpoint,
            ),
            headers=_headers(),
            content=content,
            target=blobs / content.digest,
        )

    def _link(self, reference: HubReference, listing: Listing, name: str) -> Path:
        path = retrying(is_passing_at_hub)(
            lambda: hf_hub_download(
                reference.repository,
                name,
                revision=reference.revision,
                cache_dir=self.cache,
                endpoint=self.api.endpoint,
                library_name="rbee-export",
            )
        )
        placed = Path(path)
        blob = placed.resolve().name
        folder = placed.parents[name.count("/")]
        if folder.name != listing.commit or blob not in (listing.files[name].digest, placed.name):
            raise ExportError(f"{reference}: changed while it was being read; try again")
        return placed

    def _cached(self, reference: HubReference) -> Path:
        """Return the path of a model that the cache holds, without asking the hub."""
        wanted = reference.revision or "main"
        for repository in scan_cache_dir(self.cache).repos if self.cache.is_dir() else ():
            if (repository.repo_id, repository.repo_type) != (reference.repository, "model"):
                continue
            for revision in repository.revisions:
                if wanted not in (revision.commit_hash, *revision.refs):
                    continue
                folder = revision.snapshot_path
                present = [file.file_path.relative_to(folder).as_posix() for file in revision.files]
                names = self._choose(reference, present)
                if INDEX in names:
                    _shards(str(reference), folder / INDEX, present)
                return _place(folder, names)
        raise ExportError(
            f"{reference}: not in the cache {self.cache}, and HF_HUB_OFFLINE forbids to download; "
            "unset it"
        )


def _shards(source: str, index: Path, names: Collection[str]) -> tuple[str, ...]:
    """Return the files that an index of weights names."""
    shards = named_shards(index)
    for shard in shards:
        if shard not in names:
            raise CheckpointError(f"{source}: {INDEX} names {shown(shard)}, which is not there")
    return shards


def _place(folder: Path, names: Sequence[str]) -> Path:
    return folder / names[0] if names[0].lower().endswith(".gguf") else folder


def _headers() -> dict[str, str]:
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name


def _require_space(source: str, directory: Path, downloads: Collection[Download]) -> None:
    needed, free = sum(d.remaining for d in downloads), shutil.disk_usage(directory).free
    if needed > free:
        raise ExportError(
            f"{source}: {human_size(needed)} are still to come and {directory} has room for "
            f"{human_size(free)}; make room, or set HF_HOME to another disk"
        )


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait for other exporters that download the same repository."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
