"""A mail server for tests: STARTTLS and a password are demanded; what comes is
printed as JSON, a line each. Arguments: port, certificate, key, user, password."""
import json
import ssl
import sys
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

port, cert, key, user, password = sys.argv[1:]


class Printer:
    async def handle_DATA(self, server, session, envelope):
        print(json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": session.ssl is not None,
                          "signed_in": session.authenticated, "content": envelope.content.decode()}), flush=True)
        return "250 OK"


def check(server, session, envelope, mechanism, data):
    good = data.login.decode() == user and data.password.decode() == password
    return AuthResult(success=good)


tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(cert, key)
Controller(Printer(), hostname="127.0.0.1", port=int(port), tls_context=tls, require_starttls=True,
           authenticator=check, auth_required=True).start()
print("ready", flush=True)
while True:
    time.sleep(60)
