"""Collectors of traces, apart from the mesh's own: OTLP over gRPC on 4317 and over HTTP on 4318, and Zipkin on 9411. Prints one line of JSON
for each span. The one on HTTP is busy at first, and then wants one span less than it is sent."""

import gzip
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc

lock = threading.Lock()
posts = 0


def say(**span):
    with lock:
        print(json.dumps(span), flush=True)


def take(via, request):
    for of_resource in request.resource_spans:
        resource = {it.key: it.value.string_value for it in of_resource.resource.attributes}
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                attributes = {it.key: it.value.string_value or str(it.value.int_value) for it in span.attributes}
                say(via=via, service=resource["service.name"], trace=span.trace_id.hex(), span=span.span_id.hex(), parent=span.parent_span_id.hex(), kind=span.kind, name=span.name, attributes=attributes)


class Grpc(service_grpc.TraceServiceServicer):
    def Export(self, request, context):
        take("grpc", request)
        return service.ExportTraceServiceResponse()


class Otlp(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global posts
        body = gzip.decompress(self.rfile.read(int(self.headers["content-length"])))
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf"), self.headers
        posts += 1
        if posts == 1:
            self.answer(503, b"", ("retry-after", "0"))
            return
        take("http", service.ExportTraceServiceRequest.FromString(body))
        response = service.ExportTraceServiceResponse()
        if posts == 2:
            response.partial_success.rejected_spans = 1
        self.answer(200, response.SerializeToString(), ("content-type", "application/x-protobuf"))

    def answer(self, status, body, *headers):
        self.send_response(status)
        for name, value in (*headers, ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Zipkin(Otlp):
    def do_POST(self):
        body = gzip.decompress(self.rfile.read(int(self.headers["content-length"])))
        assert (self.path, self.headers["content-type"]) == ("/api/v2/spans", "application/json"), self.headers
        for span in json.loads(body):
            say(via="zipkin", service=span["localEndpoint"]["serviceName"], trace=span["traceId"], span=span["id"], parent=span.get("parentId", ""), kind=span["kind"], name=span["name"], attributes=span["tags"])
        self.answer(202, b"")


address = sys.argv[1]
server = grpc.server(ThreadPoolExecutor(4))
service_grpc.add_TraceServiceServicer_to_server(Grpc(), server)
assert server.add_insecure_port(f"{address}:4317")
server.start()
others = [ThreadingHTTPServer((address, 4318), Otlp), ThreadingHTTPServer((address, 9411), Zipkin)]
for other in others:
    threading.Thread(target=other.serve_forever, daemon=True).start()
print("listening", flush=True)
server.wait_for_termination()
