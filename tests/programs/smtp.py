"""SMTP, through smtplib: letters with large attachments, several over one connection."""

import smtplib
from email.message import EmailMessage

from proving import store


def first(host):
    with smtplib.SMTP(host, 25, timeout=10) as client:
        assert client.noop()[0] == 250


def work(host):
    with smtplib.SMTP(host, 25, timeout=20) as client:
        for number in range(10):
            letter = EmailMessage()
            letter["From"], letter["To"], letter["Subject"] = "me@weft.test", "you@weft.test", f"letter {number}"
            letter.set_content("See the attachment.")
            letter.add_attachment(bytes(range(256)) * 2048, maintype="application", subtype="octet-stream")
            assert client.send_message(letter) == {}
        try:
            client.sendmail("me@weft.test", ["stranger@elsewhere.test"], "no")
            raise AssertionError("relayed")
        except smtplib.SMTPRecipientsRefused as refused:
            assert refused.recipients["stranger@elsewhere.test"][0] == 554


store(first, work)
