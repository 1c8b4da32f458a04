// The evaluation report of the run that made the bundle, as `sidar evaluate` wrote it.
import { $, h } from "./dom.js";
import { address, bytes, key } from "./api.js";
import { model, state } from "./state.js";

/** Show the report of the model that answers, or say that there is none. */
export function show() {
  if (!model().report) {
    $("report").replaceChildren(
      h(
        "p",
        { class: "soft" },
        `The run of ${state.model} left no evaluation report beside its bundle. `,
        h("code", {}, "sidar evaluate"),
        " writes one.",
      ),
    );
    return;
  }
  const at = `v1/report?${new URLSearchParams({ model: state.model })}`;
  if (key.get()) {
    // a frame cannot send the key
    const save = async () => {
      const link = h("a", {
        href: URL.createObjectURL(await bytes(at)),
        download: `${state.model}.html`,
      });
      link.click();
      URL.revokeObjectURL(link.href);
    };
    $("report").replaceChildren(
      h(
        "p",
        {},
        "With an API key the report is downloaded instead of shown here. ",
        h("button", { type: "button", onclick: save }, "Download the report"),
      ),
    );
    return;
  }
  $("report").replaceChildren(
    h(
      "p",
      {},
      h("a", { href: address(at), target: "_blank", rel: "noopener" }, "Open the report by itself"),
    ),
    h("iframe", { src: address(at), title: `Evaluation report of ${state.model}`, sandbox: "" }),
  );
}
