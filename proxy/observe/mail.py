"""Email through the operator's SMTP server: smtplib, in a thread of its own for every message.

The thread is a daemon, for the interpreter waits for all others when it ends, and a mail server may hang.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final, Literal

from proxy.observe.threads import in_thread
from proxy.policy import notice
from proxy.policy.notice import Letter, Sent, Subscription

TIMEOUT_S: Final = 15.0
"""Of every step of a dialogue with the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smtp:
    """Where mail is handed in."""

    host: str
    port: int = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    sender: str = "outrider@localhost"
    username: str = ""
    password: Callable[[], str | None] = lambda: None
    """Read for every message, so that a rotated one is used. None: no login."""


class Mailer:
    """Sends letters by mail."""

    def __init__(self, smtp: Callable[[], Smtp | None], tls: ssl.SSLContext | None = None) -> None:
        """`smtp`: the server in force, None when the file names none. `tls`: None for the system's authorities."""
        self._smtp = smtp
        self._tls = tls

    async def send(self, letter: Letter, to: Subscription, now: float) -> Sent:
        """Hand one message in."""
        smtp = self._smtp()
        if smtp is None:
            return Sent(result="failed", reason="notify.smtp is not configured")
        message = compose(letter, to.email, smtp.sender, now)
        return await in_thread(lambda: _hand_in(smtp, message, self._tls), "notify mail")


def compose(letter: Letter, to: str, sender: str, now: float) -> EmailMessage:
    """The message. Its Message-ID is made of the letter's id, so a mail program shows a repeated one once."""
    message = EmailMessage()
    message["Subject"] = " ".join(f"[outrider] {notice.subject(letter)}".split())  # one line, whatever it quotes
    message["From"] = sender
    message["To"] = to
    message["Date"] = formatdate(now)
    message["Message-ID"] = f"<{letter.id}@outrider>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(notice.text(letter))
    return message


def _hand_in(smtp: Smtp, message: EmailMessage, tls: ssl.SSLContext | None) -> Sent:
    """The dialogue; blocks."""
    try:
        context = None if smtp.tls == "none" else tls or ssl.create_default_context()
        if smtp.tls == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(smtp.host, smtp.port, timeout=TIMEOUT_S)
        with server:
            if smtp.tls == "starttls":
                server.starttls(context=context)
            password = smtp.password()
            if smtp.username and password:
                server.login(smtp.username, password)
            server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        return Sent(result="refused", reason=f"recipient refused: {codes}")
    except smtplib.SMTPResponseException as error:
        # The server's words may repeat what was sent to it; its number says enough.
        return Sent(result="failed", reason=f"{type(error).__name__}: {error.smtp_code}")
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        return Sent(result="failed", reason=f"{type(error).__name__}: {error}"[:200])
    return Sent(result="delivered")
