// Browsers start no Worker from a disk. There a page searches in a hidden frame, which takes and gives the same messages.
(function () {
  const post = window.postMessage;

  // Inside the frame: a worker's names, where a page has others.
  const START = `<script>
    var postMessage = (data) => parent.postMessage(data, "*");
    var importScripts = async (...urls) => {
      for (const url of urls)
        await new Promise((resolve, reject) => {
          const script = document.createElement("script");
          Object.assign(script, { src: url, onload: resolve, onerror: reject });
          document.head.append(script);
        });
    };
  <\/script>`;

  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = `${START}<script src="${new URL(url, document.baseURI)}"><\/script>`;
      this.frame.addEventListener("load", () => {
        for (const data of this.waiting) post.call(this.frame.contentWindow, data, "*");
        this.waiting = null;
      });
      window.addEventListener("message", (event) => {
        if (event.source === this.frame.contentWindow)
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      document.body.append(this.frame);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else post.call(this.frame.contentWindow, data, "*");
    }

    terminate() {
      this.frame.remove();
    }
  }

  // The theme's script of search looks for this name.
  window.IFrameWorker = FrameWorker;
  if (location.protocol === "file:") window.Worker = FrameWorker;
})();
