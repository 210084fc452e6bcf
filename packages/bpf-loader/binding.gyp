{
  "targets": [
    {
      "target_name": "aegis_bpf",
      "sources": ["<!@(ls -1 addon/*.cc)"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED", "_GNU_SOURCE"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-exceptions"],
      # GCC 12 sees an unset std::variant in what std::vector moves (its PR 105562) once exceptions are on.
      "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-fstack-protector-strong", "-fvisibility=hidden"],
      "libraries": ["-lbpf", "-lelf", "-lz"],
      "ldflags": ["-Wl,-z,relro", "-Wl,-z,now"]
    }
  ]
}
