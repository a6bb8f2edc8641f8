"""Scrapes `openmetrics.py HOST:PORT` as Prometheus does, in both formats; strict parsers read them. Prints the older format."""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain


def scrape(accept, expected):
    request = urllib.request.Request(f"http://{sys.argv[1]}/metrics", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["content-type"].startswith(expected), response.headers
        return response.read().decode()


newer = list(openmetrics(scrape("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text")))
text = scrape("text/plain;version=0.0.4", "text/plain")
older = list(plain(text))
samples = [sample for family in newer for sample in family.samples]
assert {sample.name for sample in samples} == {sample.name for family in older for sample in family.samples}
assert all(sample.name.endswith("_bucket") for sample in samples if sample.exemplar)
traced = {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar}
assert traced and all(len(trace) == 32 for trace in traced), traced
print(text)
