import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The build goes where the Go program embeds it from. In development the API is
// that of a server on its usual port.
export default defineConfig({
  plugins: [react()],
  build: { outDir: "../internal/webui/dist", emptyOutDir: false, assetsInlineLimit: 0, target: "es2022", reportCompressedSize: true },
  server: { proxy: { "/api": "http://127.0.0.1:8080" } },
});
