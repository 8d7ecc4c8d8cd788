"""E-mail (.eml): headers, body and attachments, with the standard library's parser."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Iterator
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

from data.errors import DamagedDocument, UnreadableDocument
from retrieval.parsers.markup import to_markdown
from retrieval.parsers.parsed import Budget, Parsed, join_within
from retrieval.text import decode, normalize

ParseAttachment = Callable[[bytes, str, Budget, int], Parsed]
_SHOWN = ("From", "To", "Cc", "Date")
_DEEPEST = 3
_MALFORMED = (ValueError, LookupError, AttributeError, TypeError, OverflowError, MessageError)
"""What the standard library says of malformed headers, and of messages that it cannot write again."""


def parse_email(raw: bytes, budget: Budget, parse: ParseAttachment, depth: int = 0) -> Parsed:
    """Return a message with the text of its attachments; those that cannot be read are named with the reason.

    Raises:
        DamagedDocument: it has no headers.
    """
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    if not message.keys():
        raise DamagedDocument("The message has no headers.", hint="Export it again as .eml.")
    subject = _header(message, "Subject")
    named: list[dict[str, str]] = []
    text = join_within(_blocks(message, budget, parse, depth, named), budget)
    meta = {"date": _date(message), "attachments": named}
    return Parsed(text, subject, meta={key: value for key, value in meta.items() if value})


def _blocks(
    message: EmailMessage, budget: Budget, parse: ParseAttachment, depth: int, named: list[dict[str, str]]
) -> Iterator[str]:
    if _header(message, "Subject"):
        yield f"# {_header(message, 'Subject')}"
    yield "\n".join(f"{name}: {_header(message, name)}" for name in _SHOWN if _header(message, name))
    body = message.get_body(("plain", "html"))
    if isinstance(body, EmailMessage):
        yield _body_text(body)
    for number, part in enumerate(message.iter_attachments() if message.is_multipart() else (), 1):
        name = part.get_filename() or f"attachment {number}"
        try:
            loaded = _attachment(part, name, budget, parse, depth)
        except UnreadableDocument as error:
            named.append({"name": name, "error": error.type, "detail": error.detail})
            yield f"## Attachment: {name}\n\n(not readable: {error.detail})"
        else:
            named.append({"name": name})
            yield f"## Attachment: {name}\n\n{loaded}"


def _attachment(part: EmailMessage, name: str, budget: Budget, parse: ParseAttachment, depth: int) -> str:
    if depth >= _DEEPEST:
        raise DamagedDocument("Too many messages inside each other.", hint="Save the inner ones apart.")
    content = part.get_payload(decode=True)
    if part.get_content_type() == "message/rfc822":
        try:
            content, name = part.get_content().as_bytes(), f"{name}.eml"
        except _MALFORMED as error:  # the others and the message itself are read
            raise DamagedDocument("The attached message is malformed.", hint="Save it apart.") from error
    if not isinstance(content, bytes):
        raise DamagedDocument("The attachment has no content.", hint="Ask for it again.")
    parsed = parse(content, name, budget, depth + 1)
    # An attachment's own headings stand under the heading that names it.
    return "\n".join(
        f"##{line}" if line.startswith("#") and parsed.markdown else line for line in parsed.text.split("\n")
    )


def _body_text(body: EmailMessage) -> str:
    raw = body.get_payload(decode=True)
    raw = raw if isinstance(raw, bytes) else b""
    charset = body.get_content_charset() or ""
    try:
        text = normalize(raw.decode(charset)) if charset else decode(raw)
    except (LookupError, ValueError):  # no such encoding, or one that is none of texts, such as idna
        text = decode(raw)
    return to_markdown(text) if body.get_content_subtype() == "html" and text.strip() else text.strip()


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name) or "").split())
    except _MALFORMED:
        return ""


def _date(message: EmailMessage) -> str:
    try:
        return parsedate_to_datetime(_header(message, "Date")).isoformat()
    except (TypeError, ValueError, OverflowError):
        return ""
