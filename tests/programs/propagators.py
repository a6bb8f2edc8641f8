"""Trace headers as the real propagators write and read them: `propagators.py HOST:PORT FORMAT..`.

The server answers with the request's head. With each format alone a request is sent, and what its server saw is read back by the
same propagator and by W3C's; with FORMATs, a request with W3C's header alone is to have been given those too."""

import http.client
import sys

from ddtrace.propagation.http import HTTPPropagator
from ddtrace.trace import Context
from opentelemetry import trace
from opentelemetry.propagators.aws import AwsXRayPropagator
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.ot_trace import OTTracePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACE, SPAN = 0x5759E988BD862E3FE1BE46A994272793, 0x53995C3F42CD8AD8
LOWER = TRACE & (1 << 64) - 1


class Headers(dict):
    """In lower case, and found in any."""

    def get(self, name, default=None):
        return super().get(name.lower(), default)


class OpenTelemetry:
    def __init__(self, propagator):
        self.propagator = propagator

    def write(self, sampled):
        headers, flags = {}, trace.TraceFlags(1 if sampled else 0)
        span = trace.NonRecordingSpan(trace.SpanContext(TRACE, SPAN, is_remote=False, trace_flags=flags))
        self.propagator.inject(headers, trace.set_span_in_context(span))
        return headers

    def read(self, headers):
        found = trace.get_current_span(self.propagator.extract(headers)).get_span_context()
        assert found.is_valid, headers
        return found.trace_id, found.span_id, bool(found.trace_flags.sampled)


class Datadog:
    def write(self, sampled):
        headers = {}
        HTTPPropagator.inject(Context(trace_id=TRACE, span_id=SPAN, sampling_priority=2 if sampled else -1), headers)
        return {name: value for name, value in headers.items() if name.startswith("x-datadog-")}

    def read(self, headers):
        headers = {name: value for name, value in headers.items() if name.startswith("x-datadog-")}
        found = HTTPPropagator.extract(headers)
        return found.trace_id, found.span_id, found.sampling_priority > 0


W3C = OpenTelemetry(TraceContextTextMapPropagator())
FORMATS = {
    "w3c": W3C,
    "b3": OpenTelemetry(B3SingleFormat()),
    "b3multi": OpenTelemetry(B3MultiFormat()),
    "jaeger": OpenTelemetry(JaegerPropagator()),
    "datadog": Datadog(),
    "xray": OpenTelemetry(AwsXRayPropagator()),
    "ottrace": OpenTelemetry(OTTracePropagator()),
}


def seen(server, headers):
    connection = http.client.HTTPConnection(server, timeout=30)
    connection.request("GET", "/", headers={**headers, "baggage": "k=v;p=1,%20=%20"})
    head = connection.getresponse().read().decode()
    fields = [line.split(":", 1) for line in head.split("\r\n\r\n")[0].split("\r\n")[1:]]
    names = [name.lower() for name, _ in fields]
    assert len(names) == len(set(names)), head
    assert ["baggage", " k=v;p=1,%20=%20"] in [[name.lower(), value] for name, value in fields], head
    return Headers((name.lower(), value.strip()) for name, value in fields)


def main(server, *configured):
    for name, propagator in FORMATS.items():
        for sampled in (True, False):
            sent = propagator.write(sampled)
            headers = seen(server, sent)
            traced, span, decided = propagator.read(headers)
            # OpenTracing's tracers know half of an identifier.
            trace_id = LOWER if name == "ottrace" else TRACE
            assert (traced, decided) == (trace_id, sampled) and span != SPAN, (name, sent, headers)
            assert W3C.read(headers) == (trace_id, span, sampled), (name, headers)
            assert not any(str(SPAN) in value or f"{SPAN:016x}" in value for value in headers.values()), (name, headers)
            for other in configured:
                assert FORMATS[other].read(headers)[1:] == (span, sampled), (name, other, headers)
            print(name, sampled, "ok")


main(*sys.argv[1:])
