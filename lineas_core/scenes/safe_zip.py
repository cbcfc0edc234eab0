"""Read an untrusted zip file in memory, within limits."""

from __future__ import annotations

import io
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from lineas_core.errors import LineasError

END = struct.Struct("<4s4H2LH")
END_MARK, ZIP64_MARK, ZIP64_SIZE = b"PK\5\6", b"PK\6\7", 20
# Bytes of one record of the central directory, including the name.
MAX_RECORD_BYTES = 1024
# Entries up to this size may exceed the compression ratio: a zip bomb is larger.
SMALL = 4096


class ZipError(LineasError, ValueError):
    """A zip file is damaged or over the limits; the message names the entry."""


@dataclass(frozen=True)
class ZipLimits:
    """Limits on a zip file.

    Args:
        entries: maximum number of entries.
        unpacked: maximum total bytes when unpacked, and maximum size of the zip file itself.
        ratio: maximum unpacked bytes per packed byte of an entry.
    """

    entries: int
    unpacked: int
    ratio: int


def read_entries(
    data: bytes, limits: ZipLimits, known: Callable[[str], bool]
) -> tuple[dict[str, bytes], list[str]]:
    """Read the entries whose names are known; each other entry is skipped and gets a note.

    Nothing is written to disk. All entries count towards the limits, known or not.

    Raises:
        ZipError: it is not a zip file, is damaged or over a limit, uses an unsupported
            compression method, or has an entry that is a link, a duplicate, or has a name that
            escapes its folder.
    """
    if len(data) > limits.unpacked:
        raise ZipError(f"The file is larger than {limits.unpacked // 2**20} MiB.")
    _check_directory(data, limits)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_entries(infos, limits)
            files = [info for info in infos if not info.is_dir()]
            entries = {i.filename: _read(archive, i) for i in files if known(i.filename)}
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        if isinstance(error, ZipError):
            raise
        raise ZipError(f"The zip file is damaged ({error}).") from error
    ignored = [i.filename for i in files if i.filename not in entries]
    return entries, [f"{name!r:.200} is not known here and was left out." for name in ignored]


def _check_directory(data: bytes, limits: ZipLimits) -> None:
    """Check the end-of-directory record first, so that a huge directory is never read."""
    at = data.rfind(END_MARK, max(0, len(data) - END.size - 2**16))
    if at < 0 or at + END.size > len(data):
        raise ZipError("The file is not a zip file.")
    _, _, _, _, count, size, _, _ = END.unpack_from(data, at)
    if data[max(0, at - ZIP64_SIZE) : at].startswith(ZIP64_MARK):
        raise ZipError("The zip file uses the format for more than 4 GiB (zip64).")
    if count > limits.entries or size > limits.entries * MAX_RECORD_BYTES:
        raise ZipError(f"The zip file has {count} entries; {limits.entries} are the most.")


def _check_entries(infos: list[zipfile.ZipInfo], limits: ZipLimits) -> None:
    if len(infos) > limits.entries:
        raise ZipError(f"The zip file has {len(infos)} entries; {limits.entries} are the most.")
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename
        parts = name.removesuffix("/").split("/")
        odd = "\\" in name or ":" in name or not name.isprintable()
        if odd or not set(parts).isdisjoint(("", ".", "..")):
            raise ZipError(f"Entry {name!r:.200} is named to land outside its folder.")
        # Compare as file systems do that ignore case or normalise Unicode names.
        same = unicodedata.normalize("NFC", name.removesuffix("/")).casefold()
        if same in seen:
            raise ZipError(f"Entry {name!r:.200} is there twice.")
        seen.add(same)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ZipError(f"Entry {name!r:.200} is a link or a device, not a file.")
        if info.flag_bits & 1:
            raise ZipError(f"Entry {name!r:.200} is encrypted.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ZipError(f"Entry {name!r:.200} is packed in an unusual way.")
        if info.file_size > max(SMALL, limits.ratio * info.compress_size):
            raise ZipError(
                f"Entry {name!r:.200} unpacks to more than {limits.ratio} times its size."
            )
    if sum(info.file_size for info in infos) > limits.unpacked:
        raise ZipError(f"The zip file unpacks to more than {limits.unpacked // 2**20} MiB.")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        # Read no more than the declared size, which was checked, whatever the data unpacks to.
        with archive.open(info) as file:
            data = file.read(info.file_size)
            # zipfile verifies the checksum only when a read reaches the end.
            file.read(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ZipError(f"Entry {info.filename!r:.200} is damaged ({error}).") from error
    if len(data) != info.file_size:
        raise ZipError(f"Entry {info.filename!r:.200} is cut short.")
    return data
