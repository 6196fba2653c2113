// Browsers give a page that was opened from disk no workers, and the search of this site runs in one. Here it runs in a
// hidden frame instead. Loaded by mkdocs.yml; on a server it does nothing.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "search"
      document.body.append(frame)
      const inside = frame.contentWindow
      // What the script posts would come back to itself: in a worker, it goes to the page.
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}))
      const script = frame.contentDocument.createElement("script")
      this.inside = new Promise(resolve => script.addEventListener("load", () => resolve(inside)))
      script.src = new URL(address, location)
      frame.contentDocument.body.append(script)
    }

    postMessage(data) {
      this.inside.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", {data})))
    }
  }
}
