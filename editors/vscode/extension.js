// Starts clipcheck's language server and stops it again; all else is the protocol's.
"use strict";

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");
const { LANGUAGES, serverCommand } = require("./server");

let client;

async function start() {
  const settings = vscode.workspace.getConfiguration("clipcheck");
  if (!settings.get("enable")) return;
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
  const server = { ...serverCommand(settings.get("command"), folder), options: { cwd: folder } };
  client = new LanguageClient("clipcheck", "clipcheck", server, {
    documentSelector: [
      ...LANGUAGES.map((language) => ({ language, scheme: "file" })),
      ...LANGUAGES.map((language) => ({ language, scheme: "untitled" })),
      { language: "python", notebook: "*" },
    ],
  });
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    vscode.window.showErrorMessage(
      `clipcheck: \`${server.command}\` cannot be started (${error.message}). Install it with ` +
        "pip install 'clipcheck[lsp]', or set clipcheck.command.",
    );
  }
}

async function stop() {
  const running = client;
  client = undefined;
  if (running?.isRunning()) await running.stop();
}

async function restart() {
  await stop();
  await start();
}

function fixAll() {
  return vscode.commands.executeCommand("editor.action.codeAction", { kind: "source.fixAll.clipcheck", apply: "first" });
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("clipcheck.restart", restart),
    vscode.commands.registerCommand("clipcheck.fixAll", fixAll),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("clipcheck.enable") || change.affectsConfiguration("clipcheck.command")) restart();
    }),
  );
  await start();
}

module.exports = { activate, deactivate: stop };
