// Gives Gradio the address at which the browser has the page, in place of the one that the server takes it for.
//
// Gradio: 6.31.0, 6.17.3
// Defect: the page's configuration has an address for every file and event, which the server makes from the header Host. A proxy
//   that sends the Host of the server behind it, as nginx does unless it is told otherwise, makes them addresses of that server.
// Report: no upstream report known
// Test: tests/browser/web/test_proxy.py::test_the_demo_works_behind_nginx
{
  let configuration;
  Object.defineProperty(window, "gradio_config", {
    configurable: true,
    get: () => configuration,
    set(value) {
      const here = new URL(".", location).href.replace(/\/$/, "");
      const root = value?.root;
      configuration = root && root !== here ? JSON.parse(JSON.stringify(value).replaceAll(root, here)) : value;
    },
  });
}
