// Folders and pins below one bpf file system, walked component by component from a descriptor: no symbolic link is followed, no other
// mount is entered, whatever changes meanwhile.
#pragma once

#include <string>
#include <vector>

#include "descriptor.hpp"
#include "result.hpp"

namespace aegis {

using Names = std::vector<std::string>;

Status mountBpffs(const std::string& root);
// Makes the folders that are missing, mode 0700.
Status makeFolders(const std::string& root, const Names& names);

struct Entry {
  std::string name;
  enum { folder, pin, other } kind;
};
// bpf.not_found when the folder is not there.
Result<std::vector<Entry>> listFolder(const std::string& root, const Names& names);
// One pin (or symbolic link, never followed). False when there was none.
Result<bool> removePin(const std::string& root, const Names& names);
// A folder with all that is in it; the number of pins removed. A folder that is not there is no error.
Result<uint32_t> removeTree(const std::string& root, const Names& names);

}  // namespace aegis
