{
  "targets": [
    {
      "target_name": "aegis_native",
      "sources": ["addon/addon.cc", "addon/opening.cc", "addon/directories.cc", "addon/contents.cc", "addon/xattrs.cc", "addon/changes.cc", "addon/file_batch.cc", "exec/sha256.c"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-fvisibility=hidden"],
      "ldflags": ["-Wl,-z,relro", "-Wl,-z,now"]
    }
  ]
}
