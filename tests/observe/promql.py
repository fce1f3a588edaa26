"""Reads what of a PromQL expression names metrics and labels; promtool says whether it is PromQL at all."""

import re

TOKEN = re.compile(r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<range>\[[^\]]*\])
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:ms|[smhdwy])?)
  | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
  | (?P<op>=~|!~|!=|==|<=|>=|[-+*/%^(){},=<>@])
)""", re.VERBOSE)
# What Prometheus adds to every series that it scrapes.
ADDED = {"instance", "job"}
WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end", "atan2"}
LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}  # of labels, in parentheses


def tokens(text):
    at, found = 0, []
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError(f"cannot read {text[at:]!r}")
        found.append((match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return found


def read(text):
    """([(metric, [(label, operator, value)])], {labels that are grouped or joined by})"""
    words = tokens(text)
    selectors, grouped = [], set()
    at = 0
    while at < len(words):
        kind, word = words[at]
        following = words[at + 1][1] if at + 1 < len(words) else ""
        at += 1
        if kind != "name" or word in WORDS:
            continue
        if word in LISTS:
            if following == "(":
                at += 1
                while words[at][1] != ")":
                    if words[at][0] == "name":
                        grouped.add(words[at][1])
                    at += 1
            continue
        if following == "(" or following in LISTS:
            continue  # a function or an aggregation
        matchers = []
        if following == "{":
            at += 1
            while words[at][1] != "}":
                if words[at][1] == ",":
                    at += 1
                    continue
                (_, label), (_, operator), (_, value) = words[at:at + 3]
                matchers.append((label, operator, value[1:-1]))
                at += 3
        selectors.append((word, matchers))
    return selectors, grouped


SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def served(text):
    """What a /metrics page holds: {metric: {label: {values}}}."""
    metrics = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        if not match:
            raise ValueError(f"not a sample: {line!r}")
        labels = metrics.setdefault(match.group(1), {})
        for label, value in LABEL.findall(match.group(2) or ""):
            labels.setdefault(label, set()).add(value)
    return metrics


def faults(text, metrics):
    """What of an expression would find nothing in `metrics` (as served() gives them)."""
    selectors, grouped = read(text)
    found = []
    if not selectors:
        found.append("names no metric")
    known = set(ADDED)
    for metric, matchers in selectors:
        if metric not in metrics:
            found.append(f"{metric} is not served")
            continue
        known |= set(metrics[metric])
        for label, operator, value in matchers:
            if label in ADDED:
                continue
            values = metrics[metric].get(label)
            if values is None:
                found.append(f"{metric} has no label {label}")
            elif operator == "=" and value not in values:
                found.append(f"{metric} has no {label}={value}")
    for label in grouped - known:
        found.append(f"no metric of it has the label {label}")
    return found
