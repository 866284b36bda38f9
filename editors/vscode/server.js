// How the language server is started; without VS Code, so that a test can start it in the same way.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const LANGUAGES = ["python", "markdown", "mdx", "quarto", "rmd", "restructuredtext"];

/** The command of the setting, else clipcheck of the workspace's environment, else the one on the PATH. */
function serverCommand(setting, folder, platform = process.platform) {
  if (setting.length > 0) return { command: setting[0], args: setting.slice(1) };
  const program = platform === "win32" ? ["Scripts", "clipcheck.exe"] : ["bin", "clipcheck"];
  const found = [".venv", "venv"]
    .filter(() => folder !== undefined)
    .map((name) => path.join(folder, name, ...program))
    .find((file) => fs.existsSync(file));
  return { command: found ?? "clipcheck", args: ["server"] };
}

module.exports = { LANGUAGES, serverCommand };
