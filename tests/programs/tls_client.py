"""A client of TLS: `tls_client.py ADDRESS PORT NAME ANCHORS` prints the certificate that it was shown, and what was answered."""

import socket
import ssl
import sys

address, port, name, anchors = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=anchors)
with socket.create_connection((address, port), timeout=30) as tcp, context.wrap_socket(tcp, server_hostname=name) as tls:
    print(ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True)))
    tls.sendall(b"GET / HTTP/1.1\r\nHost: any\r\n\r\n")
    answer = b""
    # An end without a close_notify is an error here.
    while piece := tls.recv(65536):
        answer += piece
print(answer.decode())
