// Search from disk: a browser starts no Worker for a page of file://, so a hidden frame does its work.
// The offline plugin would fetch such a script from elsewhere; this one is ours.
class FrameWorker extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.inside = frame.contentWindow;
    window.addEventListener("message", (event) => {
      if (event.source !== this.inside) return;
      const told = new MessageEvent("message", {data: event.data});
      this.dispatchEvent(told);
      if (this.onmessage) this.onmessage(told);
    });
    this.ready = new Promise((resolve) => { this.inside.onload = resolve; frame.onload = resolve; });
    this.inside.document.open();
    this.inside.document.write(`<script>
      postMessage = (data) => parent.dispatchEvent(new MessageEvent("message", {data, source: window}));
      importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {
        const script = document.createElement("script");
        script.src = url;
        script.onload = done;
        document.body.append(script);
      })), Promise.resolve());
    <\/script><body><script src="${url}"><\/script></body>`);
    this.inside.document.close();
  }
  postMessage(data) {
    this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", {data})));
  }
  terminate() {}
}
if (location.protocol === "file:") window.Worker = FrameWorker;
