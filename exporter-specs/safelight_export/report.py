"""What an export did, as one page that needs nothing else: `report.html`."""

import html
from pathlib import Path

STYLE = """
:root { --paper: #fbfaf8; --ink: #23211f; --faint: #6d6862; --line: #ddd8d0; --card: #fff;
  --fp32: #7a8288; --fp16: #2f7fb8; --int8: #c0432f; --good: #2d7d46; }
@media (prefers-color-scheme: dark) { :root { --paper: #191715; --ink: #ece7e1; --faint: #a09a92; --line: #3a3632;
  --card: #221f1d; --fp32: #a7aeb3; --fp16: #6db3e2; --int8: #ee7d68; --good: #6cc487; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; }
p { margin: .3rem 0 .9rem; max-width: 46rem; } .faint, figcaption { color: var(--faint); font-size: .88rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem 1rem; min-width: 10rem; flex: 1; }
.card b { display: block; font-size: 1.5rem; line-height: 1.3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; } th { text-align: left; font-weight: 600; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td code { word-break: break-all; font-size: .84rem; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .faint { fill: var(--faint); } .axis { stroke: var(--line); }
.fp32 { fill: var(--fp32); } .fp16 { fill: var(--fp16); } .int8 { fill: var(--int8); }
.l-fp16 { stroke: var(--fp16); fill: none; stroke-width: 2; } .l-int8 { stroke: var(--int8); fill: none; stroke-width: 2; }
.key span { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 1em; }
.k-fp32 { background: var(--fp32); } .k-fp16 { background: var(--fp16); } .k-int8 { background: var(--int8); }
.pictures { display: grid; gap: .9rem; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.pictures img { width: 100%; border-radius: .35rem; display: block; image-rendering: auto; }
figure { margin: 0; }
"""
TITLES = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
STAGES = {
    "text_encoder": "text encoder", "text_encoder_2": "second text encoder", "unet": "denoiser", "transformer": "denoiser",
    "vae_decoder": "decoder", "vae_encoder": "encoder",
}  # fmt: skip
SHOWN = 24


def write(out: Path, export: dict):
    """Writes `out` from what an export returned: `name`, `components` (a dict a step of each), `comparison`."""
    sections = [head(export), sizes(export), errors(export), steps(export), pictures(export), layers(export)]
    sections += [halves(export), latency(export), profile(export), optimised(export), how(export)]
    title = text(f"{export['name']}: what the export did")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><main>{''.join(filter(None, sections))}</main></html>\n"
    )
    Path(out).write_text(page, encoding="utf-8")


def text(value):
    return html.escape(str(value))


def section(title, about, *content):
    return f"<h2>{text(title)}</h2><p>{about}</p>{''.join(content)}"


def components(export):
    """(title, what each step found) of each graph."""
    return [(STAGES.get(folder, folder), found) for folder, found in export["components"].items()]


def precisions(export):
    found = {name for _, part in components(export) for name in TITLES if name in part}
    return [name for name in TITLES if name in found or name == "fp32"]


def head(export):
    cards = []
    before, after = total_bytes(export, "fp32"), total_bytes(export, "int8")
    if after:
        cards.append((f"{after / before:.2f}×", f"INT8’s size of FP32’s ({megabytes(after)} of {megabytes(before)})"))
    compared = export.get("comparison", {})
    if "int8" in compared.get("latency", {}):
        ratio = compared["latency"]["int8"]["ratio"]
        cards.append((f"{ratio[0]:.2f}×", f"the time of a denoising step of FP32’s ({ratio[1]:.2f} to {ratio[2]:.2f})"))
    heard = [row["precisions"]["int8"] for row in compared.get("pictures", []) if "int8" in row["precisions"]]
    if heard:
        cards.append((f"{100 * max(each['latents'] for each in heard):.1f} %", "the worst difference of INT8’s last latents (relative L2)"))
        known = [each["psnr"] for each in heard if each.get("psnr")]
        if known:
            cards.append((f"{min(known):.1f} dB", "the worst picture of INT8 against FP32 (PSNR; above 30 is hard to see)"))
    kept = sum(len(part.get("int8", {}).get("kept", [])) for _, part in components(export))
    layers_ = sum(part.get("int8", {}).get("layers", 0) for _, part in components(export))
    if layers_:
        cards.append((f"{kept} of {layers_}", "layers that stay in float"))
    boxes = "".join(f'<div class="card"><b>{text(value)}</b><span class="faint">{text(about)}</span></div>' for value, about in cards)
    spec = f" from the spec <code>{text(export['spec'])}</code>" if "spec" in export else ""
    return (
        f"<h1>{text(export['name'])}</h1><p>What became of this model on its way from a trained checkpoint to graphs that "
        f"a small computer runs{spec}: how large they are, how far from the original, and how fast.</p>"
        f'<div class="cards">{boxes}</div>{key(export)}'
    )


def key(export):
    spans = "".join(f'<span class="k-{name}"></span>{TITLES[name]}' for name in precisions(export))
    return f'<p class="faint key">Colours:{spans}</p>'


def graph_bytes(part, precision):
    """Bytes of weights of a graph."""
    if precision == "fp32":
        for name in ("int8", "fp16"):
            if name in part:
                return part[name]["bytes"][0]
        return part.get("optimise", {}).get("bytes") or part.get("fp32", {}).get("bytes", 0)
    return part[precision]["bytes"][1] if precision in part else None


def total_bytes(export, precision):
    found = [graph_bytes(part, precision) for _, part in components(export)]
    return sum(found) if found and None not in found else None


def megabytes(count):
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def sizes(export):
    rows = []
    for title, part in components(export):
        for name in precisions(export):
            size = graph_bytes(part, name)
            if size:
                rows.append((f"{title}, {TITLES[name]}", size, name, megabytes(size)))
    return section("Size", "Weights of each graph, as they lie on disk and have to be read.", bars(rows))


def bars(rows, room=130):
    """Horizontal bars: (label, value, class, what is written behind it), which needs `room`."""
    most, width, left, height = max((value for _, value, _, _ in rows), default=1) or 1, 900, 300, 22
    drawn = []
    for index, (label, value, kind, told) in enumerate(rows):
        y, length = index * height, max(1.0, value / most * (width - left - room))
        drawn.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{text(short(label))}</text>'
            f'<rect x="{left}" y="{y + 4}" width="{length:.1f}" height="{height - 8}" rx="2" class="{kind}"/>'
            f'<text x="{left + length + 6:.1f}" y="{y + 15}" class="faint">{text(told)}</text>'
        )
    return f'<svg viewBox="0 0 {width} {len(rows) * height + 4}" role="img">{"".join(drawn)}</svg>'


def short(label, most=46):
    """The end of a long name tells layers apart."""
    return label if len(label) <= most else f"…{label[-most + 1 :]}"


def table(headings, rows):
    heads = "".join(f'<th class="{"n" if right else ""}">{text(name)}</th>' for name, right in headings)
    body = ""
    for row in rows:
        body += "<tr>" + "".join(f'<td class="{"n" if right else ""}">{cell}</td>' for (_, right), cell in zip(headings, row)) + "</tr>"
    return f'<div class="scroll"><table><tr>{heads}</tr>{body}</table></div>'


def scientific(value):
    if not value:
        return "–" if value is None else "0 %"
    return f"{100 * value:.2f} %" if value >= 1e-4 else f"{100 * value:.1e} %"


def errors(export):
    rows = []
    for title, part in components(export):
        within = lambda name: f"{scientific(part[name]['relative_l2'])} (allowed {100 * part[name]['budget']:g} %)" if name in part else "–"
        rows.append([
            text(title), scientific(part.get("trace", {}).get("relative_l2")),
            scientific(part.get("optimise", {}).get("relative_l2")), within("fp16"), within("int8"),
        ])
    headings = [("graph", False), ("traced, to PyTorch", True), ("optimised, to traced", True), ("FP16 to FP32", True), ("INT8 to FP32", True)]
    about = (
        "How far each graph’s output is from that of the one before, as ‖difference‖ ÷ ‖output‖ (relative L2). FP16 is "
        "judged with its rounding imitated, since a CPU computes FP16 graphs in float32; INT8 as it runs. Both on samples "
        "that were not calibrated with, where there were enough."
    )
    return section("Error of each graph", about, table(headings, rows), source(export))


def source(export):
    told = export.get("calibration", {}).get("source")
    return f'<p class="faint">Samples: {text(told)}.</p>' if told else ""


def steps(export):
    rows = export.get("comparison", {}).get("pictures", [])
    names = [name for name in precisions(export) if name != "fp32" and rows and name in rows[0]["precisions"]]
    if not names:
        return None
    lines = {name: [mean(row["precisions"][name]["steps"][i] for row in rows) for i in range(len(rows[0]["precisions"][name]["steps"]))] for name in names}
    about = (
        "How far the estimate of the clean latent is from FP32’s after each step of the same seeds, mean of "
        f"{len(rows)}. A sampler carries errors on, and sometimes corrects them; what counts is the last step."
    )
    return section("Error along the steps", about, curves(lines))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def curves(lines):
    count, width, height, left, base = max(map(len, lines.values())), 900, 240, 60, 205
    most = max(max(values) for values in lines.values()) or 1
    x = lambda i: left + (0 if count == 1 else i * (width - left - 90) / (count - 1))
    y = lambda value: base - value / most * (base - 20)
    drawn = [f'<line class="axis" x1="{left}" x2="{width - 80}" y1="{base}" y2="{base}"/>']
    for share in (0.5, 1.0):
        drawn.append(f'<line class="axis" x1="{left}" x2="{width - 80}" y1="{y(most * share):.1f}" y2="{y(most * share):.1f}"/>')
        drawn.append(f'<text class="faint" x="{left - 8}" y="{y(most * share) + 4:.1f}" text-anchor="end">{100 * most * share:.2g} %</text>')
    drawn += [f'<text class="faint" x="{x(i):.1f}" y="{base + 18}" text-anchor="middle">step {i + 1}</text>' for i in range(count)]
    for name, values in lines.items():
        points = [f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values)]
        drawn.append(f'<polyline class="l-{name}" points="{" ".join(points)}"/>')
        drawn += [f'<circle class="{name}" r="3.5" cx="{point.split(",")[0]}" cy="{point.split(",")[1]}"/>' for point in points]
        drawn.append(f'<text x="{x(len(values) - 1) + 10:.1f}" y="{y(values[-1]) + 4:.1f}">{TITLES[name]} {100 * values[-1]:.2g} %</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(drawn)}</svg>'


def pictures(export):
    rows = export.get("comparison", {}).get("pictures", [])
    shown = [name for name in precisions(export) if rows and "png" in rows[0]["precisions"].get(name, {})]
    if not shown:
        return None
    figures = []
    for row in rows:
        for name in shown:
            found = row["precisions"][name]
            told = "the reference" if name == "fp32" else "the same picture" if found["psnr"] is None else f"PSNR {found['psnr']:.1f} dB"
            label = f"{row['prompt']}, seed {row['seed']}" if row["prompt"] else f"seed {row['seed']}"
            figures.append(
                f'<figure><img alt="{text(label)}, {TITLES[name]}" src="data:image/png;base64,{found["png"]}">'
                f"<figcaption>{TITLES[name]}: {told}<br>{text(label)}</figcaption></figure>"
            )
    about = f"The same words, seeds and {rows[0]['steps']} steps in each precision."
    return section("Pictures", about, f'<div class="pictures" style="--columns: {len(shown)}">{"".join(figures)}</div>')


def layers(export):
    content = []
    for title, part in components(export):
        found = part.get("int8")
        if not found:
            continue
        worst = sorted(found["alone"].items(), key=lambda entry: -entry[1])[: SHOWN // 2]
        if worst:
            told = (
                f"<b>{text(title)}</b>: {found['layers']} layers; all of them rounded gave {scientific(found['everything'])}, "
                f"what was written gives {scientific(found['relative_l2'])} with {100 * found['weights_quantised']:.1f} % of "
                "the weights in INT8. The worst when each is rounded alone:"
            )
            content.append(f"<p>{told}</p>" + bars([(name, value, "int8", scientific(value)) for name, value in worst]))
        if found["kept"]:
            rows = [[f"<code>{text(k['layer'])}</code>", text(k["operator"]), f"{k['weights']:,}", scientific(k["alone"]), text(k["why"])] for k in found["kept"]]
            headings = [("stays in float", False), ("operator", False), ("weights", True), ("error alone", True), ("because of", False)]
            content.append(table(headings, rows[:SHOWN]) + more(rows))
    about = (
        "Each layer was rounded alone, and what that does to the output measured. Those that do most harm were brought "
        "back to float until the graph’s error was within its budget."
    )
    return section("INT8: what each layer does, and which stay in float", about, *content) if content else None


def more(rows):
    return f'<p class="faint">and {len(rows) - SHOWN} more</p>' if len(rows) > SHOWN else ""


def halves(export):
    content = []
    for title, part in components(export):
        found = part.get("fp16")
        if not found:
            continue
        finite = [(name, value) for name, value in found["greatest"].items() if value == value and value != float("inf")]
        if finite:
            name, value = finite[0]
            content.append(f"<p><b>{text(title)}</b>: the greatest value is {value:.4g}, of <code>{text(name)}</code>; {found['kept_by_kind']} nodes stay in float32 by their kind, {len(found['kept'])} for their values.</p>")
        if found["kept"]:
            rows = [[f"<code>{text(k['layer'])}</code>", text(k["why"])] for k in found["kept"]]
            content.append(table([("stays in float32", False), ("because of", False)], rows[:SHOWN]) + more(rows))
    about = "FP16 ends at 65504. Values were scanned on real samples in float32, where an overflow can be seen."
    return section("FP16: the greatest values, and what stays in float32", about, *content) if content else None


def latency(export):
    found = export.get("comparison", {}).get("latency")
    if not found:
        return None
    machine = export["comparison"]["machine"]
    rows = []
    for name, each in found.items():
        ratio = "" if name == "fp32" else f", {each['ratio'][0]:.2f} of FP32 ({each['ratio'][1]:.2f} to {each['ratio'][2]:.2f})"
        rows.append((f"{TITLES[name]}", each["ms"], name, f"{each['ms']:.4g} ms{ratio}"))
    about = (
        f"One run of the denoiser in ONNX Runtime {machine['onnxruntime']} on {text(machine['cpu'])}, {machine['threads']} of "
        f"{machine['cores']} cores, {len(found['fp32']['samples'])} rounds in turns: medians, and the least and greatest ratio of a round. "
        "FP16 brings no speed on a CPU; it is for GPUs and NPUs."
    )
    return section("Time of a step", about, bars(rows, room=320))


def profile(export):
    found = export.get("comparison", {}).get("profile")
    if not found:
        return None
    total = found["total_ms"]
    rows = [(name, ms, "int8", f"{100 * ms / total:.1f} %, {ms:.3g} ms") for name, ms in list(found["operators"].items())[:14]]
    lever = found["lever"]
    groups = "; ".join(f"{text(group)} {100 * share:.0f} %" for group, share in lever["shares"].items())
    about = f"By operator, of {total:.4g} ms. In groups: {groups}."
    next_ = f"<p><b>The next lever:</b> {text(lever['group'])} take {100 * lever['share']:.0f} %. What would help is {text(lever['next'])}.</p>"
    return section("Where an INT8 step spends its time", about, bars(rows), next_)


def optimised(export):
    rows = []
    for title, part in components(export):
        found = part.get("optimise")
        if found:
            done = ", ".join(f"{found[name]} {what}" for name, what in CHANGES.items() if found.get(name))
            large = [side[0] if side else {"bytes": 0, "shape": []} for side in found["largest"]]
            rows.append([
                text(title), f"{found['nodes'][0]} → {found['nodes'][1]}", text(done or "–"),
                " → ".join(megabytes(each["bytes"]) for each in large), f"{found['time_ratio'][0]:.2f}",
            ])
    headings = [("graph", False), ("nodes", True), ("made", False), ("largest tensor", True), ("time, of before", True)]
    about = "Before precisions were lowered: the same numbers in fewer nodes. The largest tensor is for small test sizes; it grows with the picture."
    return section("What was optimised", about, table(headings, rows)) if rows else None


CHANGES = {"attention": "attention nodes", "gates": "gated layers parted", "linears": "linear layers as Gemm"}


def how(export):
    rows = [[text(s["step"]), text(s["result"]), f"{s['seconds']:.1f} s"] for s in export.get("steps", [])]
    machine = {**export.get("versions", {}), **export.get("comparison", {}).get("machine", {})}
    versions = ", ".join(f"{text(name)} {text(value)}" for name, value in machine.items())
    content = table([("step", False), ("", False), ("took", True)], rows) if rows else ""
    return section("How it was made", f"{versions}.", content)
