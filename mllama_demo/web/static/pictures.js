// Pictures that people choose, drop or paste, on every page that takes some. Runs as a script and as a module. A browser's type of
// a file is not trusted; the server checks the files.
{
  // A line of text, or the address of a file with its percent escapes.
  const decoded = (line) => {
    try {
      return decodeURI(line);
    } catch {
      return line; // "50 % of"
    }
  };
  const dragsFiles = (event) => !!event.dataTransfer?.types.includes("Files");
  globalThis.mllamaPictures = {
    // For file choosers: browsers do not know all of these as images.
    accept: "image/*,.heic,.heif,.avif,.tif,.tiff",
    dragsFiles,
    // Office programs copy text together with a picture of it: the text wins. File managers copy a file together with its name.
    pastedText(clipboard) {
      const text = clipboard.getData("text/plain"), names = [...clipboard.files].map((file) => file.name);
      const isName = text.split(/\r?\n/).filter(Boolean).every((line) => names.some((name) => decoded(line).endsWith(name)));
      return names.length && isName ? "" : text;
    },
  };
  // The browser would leave the page for a file that is dropped.
  for (const type of ["dragover", "drop"]) addEventListener(type, (event) => dragsFiles(event) && event.preventDefault());
}
