// Parses PowerShell scripts with tree-sitter-powershell, which argument 1 is the
// folder of, and prints for each what is wrong with it, the commands that it runs with their
// parameters, the functions it defines, and the properties it reads of $in.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(join(process.argv[2], "here.js")));
const { Parser, Language } = require("web-tree-sitter");
await Parser.init();
const parser = new Parser();
parser.setLanguage(await Language.load(require.resolve("tree-sitter-powershell/tree-sitter-powershell.wasm")));

const out = process.argv.slice(3).map((file) => {
  const found = { faults: [], commands: [], functions: [], reads: [], expanding: [], calls: [] };
  walk(parser.parse(readFileSync(file, "utf8")).rootNode, null, found);
  return found;
});
console.log(JSON.stringify(out));

/** walk looks at a node and those below it; command is the innermost that it is part of. */
function walk(n, command, found) {
  if (n.isError || n.isMissing) found.faults.push(`line ${n.startPosition.row + 1}: ${n.text.slice(0, 80)}`);
  const add = (list, v) => { if (!list.includes(v)) list.push(v); };
  switch (n.type) {
    case "command":
      command = { line: n.startPosition.row + 1, name: "", operator: "", parameters: [] };
      found.commands.push(command);
      break;
    case "script_block_expression": // its commands are no part of this one
      command = null;
      break;
    case "command_name":
    case "command_name_expr":
      if (command && !command.name) command.name = n.text;
      break;
    case "command_invokation_operator":
      if (command) command.operator = n.text;
      break;
    case "command_parameter":
      if (command) command.parameters.push(n.text.replace(/:$/, ""));
      break;
    case "function_name":
      found.functions.push(n.text);
      break;
    case "member_access":
      if (/^\$in\.\w+$/i.test(n.text)) add(found.reads, n.text.slice(4));
      break;
    case "invokation_expression":
      add(found.calls, n.text.split("(")[0]);
      break;
    case "string_literal": // a string that values are put into, as part of a command
      if (command && n.text.startsWith('"') && n.text.includes("$")) found.expanding.push(n.text);
      break;
  }
  for (const c of n.children) walk(c, command, found);
}
