"""`orders.py NAME [--broken] [--sick FILE]`: answers every request on port 8080 with its name.

Broken, it answers with 500. It says on /healthz that it is sick (500) for as long as FILE is there.
"""
import argparse, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("--broken", action="store_true")
parser.add_argument("--sick", default="")
settings = parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        is_sick = self.path == "/healthz" and os.path.exists(settings.sick)
        body = settings.name.encode()
        self.send_response(500 if settings.broken or is_sick else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), Handler).serve_forever()
