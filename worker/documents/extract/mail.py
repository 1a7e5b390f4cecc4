"""Mail as blocks: who wrote what to whom, the body, and the attachments that hold text."""

from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage

from worker.documents.extract.blocks import Outline

_SHOWN = ("From", "To", "Cc", "Date")
_MAX_ATTACHMENTS = 50


def read_mail(content: bytes, outline: Outline, read_part: Callable[[bytes, str, str | None], None]) -> None:
    """Write the blocks of an RFC 5322 message to ``outline``.

    Args:
        content: the message.
        outline: where the blocks go; the subject becomes the title.
        read_part: reads one part into the same outline, given its bytes, a name, and the media type if it is known.
    """
    message = message_from_bytes(content, policy=policy.default)
    subject = str(message.get("Subject", "")).strip()
    if subject:
        outline.heading(1, subject)
    header = {name: str(message.get(name, "")).strip() for name in _SHOWN}
    outline.text("; ".join(f"{name}: {value}" for name, value in header.items() if value))
    body = message.get_body(preferencelist=("plain", "html"))
    if isinstance(body, EmailMessage):
        read_part(_bytes_of(body), "body", body.get_content_type())
    for attachment in list(message.iter_attachments())[:_MAX_ATTACHMENTS]:
        name = attachment.get_filename()
        if name and not attachment.is_multipart():
            outline.heading(2, name)
            read_part(_bytes_of(attachment), name, None)


def _bytes_of(part: EmailMessage) -> bytes:
    """Return what the part holds; text comes back as UTF-8 whatever the mail says it is."""
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset()
    if part.get_content_maintype() != "text" or charset is None:
        return content
    try:
        return content.decode(charset, "replace").encode()
    except LookupError:  # a charset that nobody knows: the bytes decide
        return content
