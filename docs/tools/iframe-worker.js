// Search in pages that are opened from the disk. There a browser starts no worker, so the worker's
// script runs in a hidden frame, with the same messages.
class FrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.onmessage = null;
    this.waiting = [];
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inner = this.frame.contentWindow;
    const base = new URL(url, window.location.href);
    inner.postMessage = (data) => {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    };
    const load = (source) =>
      new Promise((resolve, reject) => {
        const script = inner.document.createElement("script");
        script.src = new URL(source, base);
        script.onload = resolve;
        script.onerror = () => reject(new Error(`cannot load ${script.src}`));
        inner.document.body.append(script);
      });
    inner.importScripts = async (...sources) => {
      for (const source of sources) await load(source);
    };
    load(base).then(() => {
      const waiting = this.waiting;
      this.waiting = null;
      waiting.forEach((data) => this.postMessage(data));
    });
  }
  postMessage(data) {
    if (this.waiting) this.waiting.push(data);
    else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
  }
  terminate() {
    this.frame.remove();
  }
}
if (window.location.protocol === "file:") window.Worker = FrameWorker;
