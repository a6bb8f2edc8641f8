"""A guestbook: each visit is a row in PostgreSQL, which it reaches as db:5432, as if there were no mesh."""

import http.server
import os
import subprocess

COPY = int(os.environ["WEFT_REPLICA"])
VISIT = f"insert into visits (copy) values ({COPY}) returning (select count(*) + 1 from visits)"


class Guestbook(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, "well")
        asked = subprocess.run(
            ["psql", "-h", "db", "-U", "postgres", "-qAtc", VISIT], capture_output=True, text=True
        )
        if asked.returncode:
            return self.answer(500, asked.stderr)
        self.answer(200, f"visitor {asked.stdout.strip()}, welcomed by copy {COPY}")

    def answer(self, status, text):
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("", 8080), Guestbook).serve_forever()
