"""A server of TLS that says who it is and what it was asked for, in HTTP: `tls_server.py PORT CERTIFICATE KEY NAME`."""

import socketserver
import ssl
import sys

port, certificate, key, name = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.set_alpn_protocols(["http/1.1"])
asked = {}


def note(connection, host, _context):
    asked[connection] = host


context.sni_callback = note


class Serve(socketserver.StreamRequestHandler):
    def handle(self):
        connection = context.wrap_socket(self.request, server_side=True)
        with connection.makefile("rb") as lines:
            while (line := lines.readline()) and line not in (b"\r\n", b"\n"):
                pass
        host = asked.pop(connection, None)
        said = f"{name} {host} {connection.version()} {connection.selected_alpn_protocol()}\n".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n".encode()
        connection.sendall(head + said)
        # It says that it ends, and hears that the other does.
        try:
            connection.unwrap().close()
        except (OSError, ssl.SSLError):
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("0.0.0.0", port), Serve).serve_forever()
