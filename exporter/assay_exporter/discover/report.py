"""Results of a sweep: counts, the table of docs/discovered.md, and a content folder to run them from."""
import collections, json
def read(folder):
    return {d.name: {p.stem: json.loads(p.read_text()) for p in sorted(d.glob("*.json"))} for d in sorted(folder.iterdir()) if d.is_dir()}
def summary(results):
    return "\n".join(f"{v}: {len(r)} " + str(dict(collections.Counter(x['stage'] for x in r.values()))) for v, r in results.items())
