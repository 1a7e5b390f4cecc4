"""Archives for tests, made in memory."""

import io
import zipfile


def packed(**entries: bytes) -> bytes:
    """A zip; ``__`` in a name stands for a dot."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in entries.items():
            writer.writestr(name.replace("__", "."), content)
    return archive.getvalue()
