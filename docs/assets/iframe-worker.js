// Browsers refuse workers in pages opened from a folder. There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.waiting = [];
      addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        const answer = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(answer);
        if (this.onmessage) this.onmessage(answer);
      });
      this.frame.addEventListener("load", () => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
      const load = `const load = (url) => new Promise((done) => {
          const script = document.createElement("script");
          script.src = new URL(url, ${JSON.stringify(String(url))});
          script.onload = done;
          document.body.appendChild(script);
        });
        window.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => load(url)), Promise.resolve());
        window.postMessage = (data) => parent.postMessage(data, "*");`;
      this.frame.srcdoc = `<body><script>${load}<\/script><script src="${url}"><\/script></body>`;
      document.body.appendChild(this.frame);
    }
    postMessage(data) {
      if (!this.ready) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
